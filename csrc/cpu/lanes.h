// Vectors as wide as the instruction set's registers, in the vector notation of GCC and clang.
#pragma once
#include <cstdint>
#include <cstring>

#include "variant.h"

namespace mmcl { namespace MMCL_ISA {

#if defined(__AVX512F__)
constexpr int kWide = 16;
#elif defined(__AVX2__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif
typedef float Wide __attribute__((vector_size(kWide * 4)));
typedef float Four __attribute__((vector_size(16)));

template <typename V> inline V load_as(const void* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
template <typename V> inline void store_as(void* p, V v) { std::memcpy(p, &v, sizeof v); }

#if defined(__clang__) || __GNUC__ >= 12
#define MMCL_MIX(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t Four32 __attribute__((vector_size(16)));
#define MMCL_MIX(a, b, i, j, k, l) __builtin_shuffle(a, b, Four32{i, j, k, l})
#endif

// Transposes the 4 x 4 matrix with the rows a, b, c, d.
inline void transpose(Four& a, Four& b, Four& c, Four& d) {
  const Four ab = MMCL_MIX(a, b, 0, 4, 1, 5), cd = MMCL_MIX(c, d, 0, 4, 1, 5);
  const Four ef = MMCL_MIX(a, b, 2, 6, 3, 7), gh = MMCL_MIX(c, d, 2, 6, 3, 7);
  a = MMCL_MIX(ab, cd, 0, 1, 4, 5);
  b = MMCL_MIX(ab, cd, 2, 3, 6, 7);
  c = MMCL_MIX(ef, gh, 0, 1, 4, 5);
  d = MMCL_MIX(ef, gh, 2, 3, 6, 7);
}

} }  // namespace mmcl::MMCL_ISA
