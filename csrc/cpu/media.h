// Kernels of mmcl_fast.media on the CPU: one call an item, so that threads meet the interpreter's lock rarely.
#pragma once
#include <cstdint>

namespace mmcl {

enum SampleKind : int { kFloatSamples = 0, kInt16Samples = 1 };
constexpr int kBadLength = 3, kLoud = 4;

// samples [frames, channels] (16 bits: divided by 32768) to out [frames], the channels' mean; kLoud: not finite or
// beyond loudest.
struct Mono { const void* samples; int kind; int64_t frames, channels; float loudest; float* out; };

// Polyphase resampling: blocks of `outputs` from `inputs` samples, by `products`: rows of
// (first output, first input, width, outputs, offset into weights); weights are [width, outputs rounded up to 16].
// wave [length] lies `half` samples into silence; out [want].
struct Resample { const float* wave; int64_t length, half, inputs, outputs, want; const int32_t* products; int64_t count;
                  const float* weights; float* out; };

// wave [length] to power [mels, ld], 1 + length / hop columns of it: frames centred with zero padding, times window
// [n_fft], squared magnitude, filters. roots [n_fft, 2]: e^(-2 pi i j / n_fft). radices (2, 3, 4, 5, 8) multiply to
// n_fft / 2. filters: rows of (first bin, bins, offset into weights). ld: columns rounded up to 16.
struct MelPower { const float* wave; int64_t length, hop, n_fft; const float *window, *roots; const int32_t* radices;
                  int64_t stages; const int32_t* filters; const float* weights; int64_t mels; float* power;
                  int64_t ld; };

// power [mels, ld] to out [size, size]: 1 + scale log10(max(power / peak, floor)), then rows and columns resized:
// out(y, x) = sum_j down_w[y, j] sum_k across_w[x, k] level(down_0[y] + j, across_0[x] + k). All 0 up to `silence`.
struct LevelPicture { const float* power; int64_t mels, frames, ld; float scale, floor, silence;
                      const int32_t* across_0; const float* across_w; int64_t across_taps;
                      const int32_t* down_0; const float* down_w; int64_t down_taps; int64_t size; float* out; };

// in [frames, 3, height, width] bytes or floats with the distances given (in_channel 0: one channel for all three) to
// out [frames, 3, height, width], whole rows, x scale + shift of its channel.
struct Normalise { const void* in; bool bytes; int64_t frames, height, width, in_frame, in_channel, in_row, in_pixel;
                   const float *scale, *shift; float* out; int64_t out_frame, out_channel; };

// in [height, width] pixels of in_pixel (3 or 4) bytes, of which three count; the box left..right, top..bottom of it
// to out [3, size, size], antialiased, bicubic (a = -1/2) or bilinear, flipped left to right or not.
struct Square { const uint8_t* in; int64_t height, width, in_row, in_pixel; double left, top, right, bottom;
                int64_t size; bool cubic, flip; uint8_t* out; };

int mono(const Mono&);
int resample(const Resample&);
int mel_power(const MelPower&);
int level_picture(const LevelPicture&);
int normalise(const Normalise&);
int square(const Square&);

}  // namespace mmcl
