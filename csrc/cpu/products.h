// Float32 matrix products c = a b of one thread.
//
// B is packed once into panels of kWide columns, so that a tile of c stays in the registers; a is read in place.
// A strip of rows of a stays in the first-level cache while the panels come from the second.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <new>

#include <omp.h>

#include "variant.h"

namespace mmcl { namespace MMCL_ISA {

#if defined(__AVX512F__)
constexpr int kW = 16, kTall = 8, kVecs = 3;  // a tile is kTall x kVecs vectors: 24 of the 32 registers
#elif defined(__AVX2__)
constexpr int kW = 8, kTall = 4, kVecs = 3;  // 12 of the 16 registers
#else
constexpr int kW = 4, kTall = 4, kVecs = 3;
#endif
constexpr int64_t kWide = kVecs * kW, kDeep = 384, kStrip = 32;
constexpr int64_t kCached = 96 << 10;  // numbers of packed panels in one sweep over the rows: 400 KB, in the cache

typedef float Vec __attribute__((vector_size(4 * kW)));
typedef float Loose __attribute__((vector_size(4 * kW), aligned(4), may_alias));

// The smallest multiple of unit that is at least n.
inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

struct Buffer {  // 64-byte aligned floats
  explicit Buffer(int64_t n)
      : numbers(n), at(static_cast<float*>(std::aligned_alloc(64, size_t(round_up(4 * n + 64, 64))))) {
    if (!at) throw std::bad_alloc();
  }
  ~Buffer() { std::free(at); }
  Buffer(const Buffer&) = delete;
  const int64_t numbers;
  float* const at;
};

inline int thread() { return omp_get_thread_num(); }
inline int threads() { return omp_get_num_threads(); }

// How many numbers a packed b (k, n) has. Layout: blocks of kDeep rows; in a block panels of kWide columns; in a panel
// row by row. The last panel has whole vectors, filled up with 0.
inline int64_t packed_size(int64_t k, int64_t n) { return k * round_up(n, kW); }

inline void pack_panel(const float* b, int64_t rb, int64_t cb, int64_t k, int64_t cols, float* out) {
  const int64_t wide = round_up(cols, kW);
  for (int64_t q = 0; q < k; ++q)
    for (int64_t j = cols; j < wide; ++j) out[q * wide + j] = 0.0f;
  if (cb == 1) {
    for (int64_t q = 0; q < k; ++q) std::copy_n(b + q * rb, cols, out + q * wide);
    return;
  }
  for (int64_t first = 0; first < k; first += 16) {  // 16 floats: a cache line of each column at a time
    const int64_t last = std::min(k, first + 16);
    for (int64_t j = 0; j < cols; ++j)
      for (int64_t q = first; q < last; ++q) out[q * wide + j] = b[q * rb + j * cb];
  }
}

// Packs b (k, n), whose element (q, j) is b[q rb + j cb]. Of `parts` workers this one is `part`.
inline void pack(const float* b, int64_t rb, int64_t cb, int64_t k, int64_t n, float* out, int64_t part = 0,
                 int64_t parts = 1) {
  int64_t turn = 0;
  for (int64_t q = 0; q < k; q += kDeep)
    for (int64_t j = 0; j < n; j += kWide) {
      if (turn++ % parts != part) continue;
      const int64_t deep = std::min(kDeep, k - q);
      pack_panel(b + q * rb + j * cb, rb, cb, deep, std::min(kWide, n - j), out + q * round_up(n, kW) + j * deep);
    }
}

// c (TALL, VECS vectors) = a (TALL, k) b, or c += a b if add. b is a panel; a's element (i, q) is a[i ra + q ca].
template <int TALL, int VECS>
static void tile(int64_t k, const float* a, int64_t ra, int64_t ca, const float* b, float* c, int64_t ldc, bool add) {
  Vec sum[TALL][VECS];
  const float* row[TALL];
#pragma GCC unroll 16
  for (int i = 0; i < TALL; ++i) {
    row[i] = a + i * ra;
#pragma GCC unroll 16
    for (int j = 0; j < VECS; ++j) sum[i][j] = Vec{};
  }
  for (int64_t q = 0, at = 0; q < k; ++q, at += ca, b += VECS * kW) {
    Vec right[VECS];
#pragma GCC unroll 16
    for (int j = 0; j < VECS; ++j) right[j] = *reinterpret_cast<const Loose*>(b + j * kW);
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i) {
      const float left = row[i][at];
#pragma GCC unroll 16
      for (int j = 0; j < VECS; ++j) sum[i][j] += right[j] * left;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < TALL; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < VECS; ++j) {
      Loose* out = reinterpret_cast<Loose*>(c + i * ldc + j * kW);
      *out = add ? Vec(*out + sum[i][j]) : sum[i][j];
    }
}

template <int TALL>
static void tile_of(int64_t vecs, int64_t k, const float* a, int64_t ra, int64_t ca, const float* b, float* c,
                    int64_t ldc, bool add) {
  if (vecs == 3) tile<TALL, 3>(k, a, ra, ca, b, c, ldc, add);
  else if (vecs == 2) tile<TALL, 2>(k, a, ra, ca, b, c, ldc, add);
  else tile<TALL, 1>(k, a, ra, ca, b, c, ldc, add);
}

// One tile of at most kTall rows and kWide columns. If cols is no multiple of a vector, the tile is computed in `over`,
// because its last vector would write past c's row.
inline void edge(int64_t rows, int64_t cols, int64_t k, const float* a, int64_t ra, int64_t ca, const float* b,
                 float* c, int64_t ldc, bool add) {
  const int64_t vecs = round_up(cols, kW) / kW;
  alignas(64) float over[kTall * kWide];
  const bool fits = cols == vecs * kW;
  float* out = fits ? c : over;
  const int64_t ld = fits ? ldc : kWide;
  const bool sum = fits && add;
  switch (rows) {
    case 1: tile_of<1>(vecs, k, a, ra, ca, b, out, ld, sum); break;
    case 2: tile_of<2>(vecs, k, a, ra, ca, b, out, ld, sum); break;
    case 3: tile_of<3>(vecs, k, a, ra, ca, b, out, ld, sum); break;
    case 4: tile_of<4>(vecs, k, a, ra, ca, b, out, ld, sum); break;
#if defined(__AVX512F__)
    case 5: tile_of<5>(vecs, k, a, ra, ca, b, out, ld, sum); break;
    case 6: tile_of<6>(vecs, k, a, ra, ca, b, out, ld, sum); break;
    case 7: tile_of<7>(vecs, k, a, ra, ca, b, out, ld, sum); break;
    case 8: tile_of<8>(vecs, k, a, ra, ca, b, out, ld, sum); break;
#endif
  }
  for (int64_t i = 0; !fits && i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) c[i * ldc + j] = (add ? c[i * ldc + j] : 0.0f) + over[i * kWide + j];
}

// c (m, n) = a (m, k) b, or c += a b if add; a's rows are contiguous and b (k, n) is packed.
inline void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* packed, float* c,
                     int64_t ldc, bool add = false) {
  for (int64_t q = 0; q < k; q += kDeep) {
    const int64_t deep = std::min(kDeep, k - q), group = std::max<int64_t>(1, kCached / deep / kWide) * kWide;
    const float* block = packed + q * round_up(n, kW);
    for (int64_t first = 0; first < n; first += group)
      for (int64_t i = 0; i < m; i += kTall)
        for (int64_t j = first; j < std::min(n, first + group); j += kWide)
          edge(std::min<int64_t>(kTall, m - i), std::min(kWide, n - j), deep, a + i * lda + q, lda, 1, block + j * deep,
               c + i * ldc + j, ldc, add || q);
  }
}

inline int64_t work_size(int64_t n) { return kDeep * (round_up(n, kW) + kStrip); }

// c (m, n) = a' b, or c += a' b if add, with a (k, m) and b (k, n). work has work_size(n) numbers.
inline void multiply_rows(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                          float* c, int64_t ldc, float* work, bool add) {
  float* const strip = work + kDeep * round_up(n, kW);
  for (int64_t q = 0; q < k; q += kDeep) {
    const int64_t deep = std::min(kDeep, k - q);
    pack(b + q * ldb, ldb, 1, deep, n, work);
    for (int64_t i = 0; i < m; i += kStrip) {
      const int64_t tall = std::min(kStrip, m - i);
      for (int64_t p = 0; p < deep; ++p)  // kTall rows of a' side by side
        for (int64_t t = 0; t < tall; t += kTall)
          std::copy_n(a + (q + p) * lda + i + t, std::min<int64_t>(kTall, tall - t), strip + t * deep + p * kTall);
      for (int64_t t = 0; t < tall; t += kTall)
        for (int64_t j = 0; j < n; j += kWide)
          edge(std::min<int64_t>(kTall, tall - t), std::min(kWide, n - j), deep, strip + t * deep, 1, kTall,
               work + j * deep, c + (i + t) * ldc + j, ldc, add || q);
    }
  }
}

} }  // namespace mmcl::MMCL_ISA
