// Scalar functions that the compiler turns into vector code inside `#pragma omp simd` loops, and error codes.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "variant.h"

namespace mmcl { namespace MMCL_ISA {

constexpr float kEps = 1e-12f;
constexpr int kBadDtype = 1, kTooWide = 2, kBadLabel = 3, kBadWeight = 4;

struct bf16 { uint16_t bits; };

inline float load(const float* p, int64_t i) { return p[i]; }
inline float load(const bf16* p, int64_t i) {
  const uint32_t wide = uint32_t(p[i].bits) << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}
inline void store(float* p, int64_t i, float v) { p[i] = v; }
inline void store(bf16* p, int64_t i, float v) {  // round to nearest even; NaN stays NaN
  uint32_t u;
  std::memcpy(&u, &v, 4);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  p[i].bits = uint16_t((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// exp(x) for x <= 88, relative error below 2e-7; NaN stays NaN.
// Below -80 it is 0. A smaller exponential, divided by a length, would be a subnormal number, which slows a matrix
// product tenfold. Method: x = n ln 2 + r (Cody-Waite), exp(r) by a polynomial of degree 6 (Cephes expf coefficients).
inline float fast_exp(float x) {
  const float safe = x < -80.0f ? -80.0f : x;
  const float shifted = safe * 1.44269504088896341f + 12582912.0f;  // adding 1.5 2^23 rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (safe - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t e;
  std::memcpy(&e, &shifted, 4);
  const int32_t bits = (e - 0x4b400000 + 127) << 23;
  float two_n;
  std::memcpy(&two_n, &bits, 4);
  const float value = p * two_n;
  return x < -80.0f ? 0.0f : value;
}

} }  // namespace mmcl::MMCL_ISA
