// CPU kernels of mmcl_fast.media. One call reads one item, so that threads rarely wait for the interpreter's lock.
#pragma once
#include <cstdint>

namespace mmcl {

enum SampleKind : int { kFloatSamples = 0, kInt16Samples = 1 };
constexpr int kBadLength = 3, kLoud = 4;

// out_t = mean over the channels of samples_t; 16-bit samples are divided by 32768.
// It returns kLoud for a value that is not finite or exceeds loudest.
struct Mono {
  const void* samples;  // (frames, channels)
  int kind;             // SampleKind
  int64_t frames, channels;
  float loudest;
  float* out;           // (frames)
};

// Polyphase resampling: each block of `outputs` samples is a sum of matrix products with blocks of `inputs` samples.
struct Resample {
  const float* wave;  // (length), preceded by `half` zeros
  int64_t length, half, inputs, outputs, want;
  const int32_t* products;  // (count, 5) first output, first input, width, outputs, offset into weights
  int64_t count;
  const float* weights;     // for each product (width, its outputs rounded up to 16)
  float* out;               // (want)
};

// power_f = sum_k weights_fk |FFT(window frame)|^2_k, for 1 + length / hop frames, centred with zero padding.
struct MelPower {
  const float* wave;     // (length)
  int64_t length, hop, n_fft;
  const float* window;   // (n_fft)
  const float* roots;    // (n_fft, 2) e^(-2 pi i j / n_fft)
  const int32_t* radices;  // (stages) of 2, 3, 4, 5 or 8; their product is n_fft / 2
  int64_t stages;
  const int32_t* filters;  // (mels, 3) first bin, bins, offset into weights
  const float* weights;
  int64_t mels;
  float* power;          // (mels, ld)
  int64_t ld;            // frames rounded up to 16
};

// level = 1 + scale log10(max(power / peak, floor)), then both axes are resized:
// out(y, x) = sum_j down_w[y, j] sum_k across_w[x, k] level(down_0[y] + j, across_0[x] + k).
// A peak of at most `silence` gives 0 everywhere.
struct LevelPicture {
  const float* power;  // (mels, ld)
  int64_t mels, frames, ld;
  float scale, floor, silence;
  const int32_t* across_0;  // (size) first frame of each column
  const float* across_w;    // (size, across_taps)
  int64_t across_taps;
  const int32_t* down_0;    // (size) first mel band of each row
  const float* down_w;      // (size, down_taps)
  int64_t down_taps;
  int64_t size;
  float* out;               // (size, size)
};

// out = in scale + shift, with a scale and a shift for each of the three channels.
struct Normalise {
  const void* in;  // (frames, 3, height, width) with the strides in_*
  bool bytes;      // uint8 if true, else float
  int64_t frames, height, width, in_frame;
  int64_t in_channel;  // 0: one channel serves for all three
  int64_t in_row, in_pixel;
  const float *scale, *shift;  // (3)
  float* out;      // (frames, 3, height, width) with whole rows
  int64_t out_frame, out_channel;
};

// Resizes the box left..right, top..bottom to a square, with antialiasing: bicubic (a = -1/2) or bilinear.
struct Square {
  const uint8_t* in;  // (height, width, in_pixel); the first three bytes of a pixel count
  int64_t height, width, in_row;
  int64_t in_pixel;   // 3 or 4
  double left, top, right, bottom;
  int64_t size;
  bool cubic;
  bool flip;          // left to right
  uint8_t* out;       // (3, size, size)
};

int mono(const Mono&);
int resample(const Resample&);
int mel_power(const MelPower&);
int level_picture(const LevelPicture&);
int normalise(const Normalise&);
int square(const Square&);

}  // namespace mmcl
