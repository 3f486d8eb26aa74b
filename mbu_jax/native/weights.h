// From bit planes of weights to lists of non-zeros.
#pragma once

#include <string>

#include "network.h"

namespace mbu {

// A packed convolution: planes are uint32 [side, side, outputs, words], exponent two such planes.
struct PackedConv {
  const uint32_t* positive;
  const uint32_t* negative;  // null: every weight that is not positive is negative
  const uint32_t* exponent;  // null: magnitudes are 1
  const int32_t* theta;      // [thresholds, outputs]
  int side, outputs, words, thresholds;
  int segment_channels[kMaxSegments];
  bool transposed;
};

// Makes the lists for a tile. Returns what is wrong with the planes, or nothing.
std::string list_nonzeros(const PackedConv& conv, const Tile& tile, Weights& weights);

}  // namespace mbu
