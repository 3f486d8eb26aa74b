// The kernels, compiled once an instruction set; MBU_ISA names the one.

#include "ceilings.h"
#include "convolution.h"
#include "head.h"
#include "network.h"
#include "pool.h"
#include "stem.h"
#include "vectors.h"

#define MBU_NAME2(prefix, isa) prefix##isa
#define MBU_NAME(prefix, isa) MBU_NAME2(prefix, isa)
#define MBU_TEXT2(text) #text
#define MBU_TEXT(text) MBU_TEXT2(text)

namespace mbu {

extern const Kernels MBU_NAME(kernels_, MBU_ISA);  // const alone would be internal
const Kernels MBU_NAME(kernels_, MBU_ISA) = {
    MBU_TEXT(MBU_ISA), kVectorBytes, stem, conv_tasks, conv,
    up_conv,           pool,         head, add_only,   read_only,
};

}  // namespace mbu
