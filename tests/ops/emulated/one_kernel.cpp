// A library of the one-pass kernel alone, for ctypes.
#include "kernels.h"
#include "sm90.cuh"

// Returns what went wrong; empty: nothing did. planted: which fault to plant, see FAULTS in test_emulated_faults.py.
extern "C" const char* run_one_pass(const mmcl::cuda::OnePass* a, int timing, unsigned seed, int planted) {
  static std::string message;
  emulated::timing = timing;
  emulated::seed = seed;
  emulated::planted = planted;
  try {
    const int code = mmcl::cuda::one_pass(*a, nullptr);
    message = code ? "the launcher returned " + std::to_string(code) : "";
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
