// Replaces csrc/cuda/wgmma.cuh in the emulator. It reads operands by the layouts that the PTX manual and CUTLASS give for
// a 128-byte swizzle, in elements of 16 bits. Addresses are offsets into the emulated shared memory.
#pragma once
#include <type_traits>

#include "emulate.h"

namespace mmcl { namespace cuda {

inline uint32_t shared_at(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - emulated::shared_memory);
}
inline uint32_t swizzle(uint32_t at) { return at ^ ((at >> 7 & 7) << 4); }

inline uint64_t k_major(uint32_t at) { return at; }
inline uint64_t n_major(uint32_t at, uint32_t leap) { return at | uint64_t(leap) << 32; }
inline void wgmma_begin() {}
template <int N> void hold(float (&)[N]) {}
template <int N> void wgmma_end(float (&)[N]) { emulated::yield(); }
inline void publish() {}
inline void bar_init(uint32_t) {}
inline void bars_ready() {}
inline void bar_expect(uint32_t, uint32_t) {}
inline void bar_wait(uint32_t, uint32_t) { emulated::yield(); }

struct Matrix { const uint16_t* x; int64_t ld, rows, width; };

inline void copy_box(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t) {
  Matrix m;
  std::memcpy(&m, map, sizeof m);
  for (int r = 0; r < 64; ++r)
    for (int c = 0; c < 64; ++c) {
      const bool inside = row + r < m.rows && column + c < m.width;
      const uint16_t value = inside ? m.x[(row + r) * m.ld + column + c] : 0;
      std::memcpy(emulated::shared_memory + swizzle(to + r * 128 + c * 2), &value, 2);
    }
}

template <typename T, int N, int TransB> struct Wgmma {
  static float at(uint32_t where) {
    T value;
    std::memcpy(&value, emulated::shared_memory + swizzle(where), 2);
    return float(value);
  }
  static void run(float (&d)[N / 2], uint64_t a, uint64_t b, int keep) {
    const uint32_t t = emulated::thread.x % 128, r0 = t / 32 * 16 + t % 32 / 4, c0 = t % 4 * 2;
    const uint32_t from_b = uint32_t(b), leap = uint32_t(b >> 32);
    for (uint32_t i = 0; i < N / 2; ++i) {
      const uint32_t row = r0 + i / 2 % 2 * 8, n = c0 + i / 4 * 8 + i % 2;
      float sum = keep ? d[i] : 0.f;
      for (uint32_t k = 0; k < 16; ++k) {
        const uint32_t in_a = uint32_t(a) + row % 8 * 128 + row / 8 * 1024 + k * 2;
        const uint32_t in_b = TransB ? from_b + n % 64 * 2 + n / 64 * leap + k % 8 * 128 + k / 8 * 1024
                                     : from_b + n % 8 * 128 + n / 8 * 1024 + k * 2;
        sum += at(in_a) * at(in_b);
      }
      d[i] = sum;
    }
  }
};

} }  // namespace mmcl::cuda
