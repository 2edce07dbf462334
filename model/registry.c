/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#include "model/model_private.h"

const struct vl_arch *const vl_archs[] = {&vl_arch_smolvlm, &vl_arch_llama, NULL};
