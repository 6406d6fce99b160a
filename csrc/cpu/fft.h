// The discrete Fourier transform of many sequences at once, one in each lane of a vector.
//
// Stockham's self-sorting form with decimation in frequency (Van Loan, "Computational Frameworks for the FFT", 1992,
// section 1.7). A stage of radix r, for all p < n/r, q < s and t < r:
//
//     y[q + s (r p + t)] = e^(-2 pi i p t / n) sum_u e^(-2 pi i t u / r) x[q + s (p + u n/r)]
//
// Then n /= r and s *= r.
#pragma once
#include "lanes.h"

namespace mmcl { namespace MMCL_ISA {

struct Complex { Wide re, im; };
inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
inline Complex operator*(Complex a, float f) { return {a.re * f, a.im * f}; }
inline Complex turned(Complex a) { return {a.im, -a.re}; }  // times -i

struct Root { float re, im; };
inline Complex operator*(Complex a, Root w) { return {a.re * w.re - a.im * w.im, a.re * w.im + a.im * w.re}; }

template <int R> struct Small;
template <> struct Small<2> {
  static void run(Complex* a) { const Complex b = a[1]; a[1] = a[0] - b; a[0] = a[0] + b; }
};
template <> struct Small<3> {
  static void run(Complex* a) {
    const Complex sum = a[1] + a[2], turn = turned(a[1] - a[2]) * 0.86602540378443865f;
    const Complex mean = a[0] - sum * 0.5f;
    a[0] = a[0] + sum; a[1] = mean + turn; a[2] = mean - turn;
  }
};
template <> struct Small<4> {
  static void run(Complex* a) {
    const Complex s = a[0] + a[2], d = a[0] - a[2], t = a[1] + a[3], e = turned(a[1] - a[3]);
    a[0] = s + t; a[1] = d + e; a[2] = s - t; a[3] = d - e;
  }
};
template <> struct Small<5> {
  static void run(Complex* a) {
    constexpr float c1 = 0.30901699437494742f, c2 = -0.80901699437494742f;
    constexpr float s1 = 0.95105651629515357f, s2 = 0.58778525229247313f;
    const Complex p = a[1] + a[4], m = a[1] - a[4], q = a[2] + a[3], n = a[2] - a[3];
    const Complex u = a[0] + p * c1 + q * c2, v = a[0] + p * c2 + q * c1;
    const Complex w = turned(m * s1 + n * s2), x = turned(m * s2 - n * s1);
    a[0] = a[0] + p + q; a[1] = u + w; a[2] = v + x; a[3] = v - x; a[4] = u - w;
  }
};
template <> struct Small<8> {
  static void run(Complex* a) {
    constexpr float h = 0.70710678118654752f;
    Complex even[4] = {a[0], a[2], a[4], a[6]}, odd[4] = {a[1], a[3], a[5], a[7]};
    Small<4>::run(even);
    Small<4>::run(odd);
    odd[1] = Complex{odd[1].re + odd[1].im, odd[1].im - odd[1].re} * h;
    odd[2] = turned(odd[2]);
    odd[3] = Complex{odd[3].im - odd[3].re, -odd[3].re - odd[3].im} * h;
    for (int t = 0; t < 4; ++t) { a[t] = even[t] + odd[t]; a[t + 4] = even[t] - odd[t]; }
  }
};

// One stage. roots[j step] = e^(-2 pi i j / n).
template <int R>
static void stage(const Complex* x, Complex* y, int64_t n, int64_t s, const Root* roots, int64_t step) {
  const int64_t part = n / R;
  for (int64_t p = 0; p < part; ++p)
    for (int64_t q = 0; q < s; ++q) {
      Complex a[R];
      for (int u = 0; u < R; ++u) a[u] = x[q + s * (p + u * part)];
      Small<R>::run(a);
      Complex* to = y + q + s * R * p;
      to[0] = a[0];
      for (int t = 1; t < R; ++t) to[s * t] = p ? a[t] * roots[p * t * step] : a[t];
    }
}

// Transforms x (n) with y (n) as scratch memory. Returns the one that holds the result; nullptr: an unknown radix.
static Complex* fft(Complex* x, Complex* y, int64_t n, const int32_t* radices, int64_t stages, const Root* roots,
                    int64_t step) {
  int64_t s = 1;
  for (int64_t k = 0; k < stages; ++k) {
    switch (radices[k]) {
      case 2: stage<2>(x, y, n, s, roots, step); break;
      case 3: stage<3>(x, y, n, s, roots, step); break;
      case 4: stage<4>(x, y, n, s, roots, step); break;
      case 5: stage<5>(x, y, n, s, roots, step); break;
      case 8: stage<8>(x, y, n, s, roots, step); break;
      default: return nullptr;
    }
    n /= radices[k]; s *= radices[k]; step *= radices[k];
    Complex* other = x; x = y; y = other;
  }
  return x;
}

} }  // namespace mmcl::MMCL_ISA
