// Declares every kernel once for each instruction set. rows_*.cpp are compiled once for each, into a namespace with its
// name; dispatch.cpp chooses at run time.
#pragma once
#include "../kernels.h"
#include "media.h"

#ifndef MMCL_ISA
#define MMCL_ISA generic
#endif

#define MMCL_VARIANT(NS)                                                                            \
  namespace mmcl { namespace NS {                                                                   \
  int align_chunk(const AlignChunk&); int align_finish(const AlignFinish&); int row_norm(const RowNorm&);  \
  int gate_rows(const GateRows&); int add_norm(const AddNorm&); int project(const Project&);         \
  int gate_back(const GateBack&); int softmax_rows(const SoftmaxRows&);                               \
  int softmax_back(const SoftmaxBack&); int realign_forward(const RealignForward&);                    \
  int realign_back(const RealignBack&); int align_rows(const AlignRows&); int mono(const Mono&);       \
  int resample(const Resample&); int mel_power(const MelPower&); int level_picture(const LevelPicture&);  \
  int normalise(const Normalise&); int square(const Square&); } }

MMCL_VARIANT(generic)
#ifdef MMCL_X86
MMCL_VARIANT(avx2)
MMCL_VARIANT(avx512)
#endif
