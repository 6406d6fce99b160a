#pragma once
#include <pybind11/pybind11.h>

namespace mmcl { namespace cuda {
void bind(pybind11::module_&);
} }  // namespace mmcl::cuda
