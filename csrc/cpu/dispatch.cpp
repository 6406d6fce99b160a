// Calls each kernel in the widest instruction set that the processor has. The environment variable MMCL_FAST_ISA
// (generic, avx2 or avx512) asks for a lesser one.
#include <cstdlib>
#include <cstring>

#include "variant.h"

namespace mmcl {
namespace {
const char* const kNames[] = {"generic", "avx2", "avx512"};

int level() {
#ifdef MMCL_X86
  static const int chosen = [] {
    __builtin_cpu_init();
    int best = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
    if (best && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) best = 2;
    const char* asked = std::getenv("MMCL_FAST_ISA");
    for (int k = 0; asked && k < best; ++k)
      if (!std::strcmp(asked, kNames[k])) return k;
    return best;
  }();
  return chosen;
#else
  return 0;
#endif
}
}  // namespace

const char* cpu_isa() { return kNames[level()]; }

#ifdef MMCL_X86
#define MMCL_PICK(NAME, ARGS)                                       \
  int NAME(const ARGS& a) {                                         \
    const int l = level();                                          \
    return l == 2 ? avx512::NAME(a) : l == 1 ? avx2::NAME(a) : generic::NAME(a); \
  }
#else
#define MMCL_PICK(NAME, ARGS) int NAME(const ARGS& a) { return generic::NAME(a); }
#endif

MMCL_PICK(align_chunk, AlignChunk)
MMCL_PICK(align_finish, AlignFinish)
MMCL_PICK(align_rows, AlignRows)
MMCL_PICK(row_norm, RowNorm)
MMCL_PICK(gate_rows, GateRows)
MMCL_PICK(add_norm, AddNorm)
MMCL_PICK(project, Project)
MMCL_PICK(gate_back, GateBack)
MMCL_PICK(realign_forward, RealignForward)
MMCL_PICK(realign_back, RealignBack)
MMCL_PICK(softmax_rows, SoftmaxRows)
MMCL_PICK(softmax_back, SoftmaxBack)
MMCL_PICK(mono, Mono)
MMCL_PICK(resample, Resample)
MMCL_PICK(mel_power, MelPower)
MMCL_PICK(level_picture, LevelPicture)
MMCL_PICK(normalise, Normalise)
MMCL_PICK(square, Square)

}  // namespace mmcl
