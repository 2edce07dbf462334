/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_BUS_ERROR_H
#define VL_DAEMON_BUS_ERROR_H
#include "base/error.h"

#include <systemd/sd-bus.h>

/* The named errors of the interface (docs/dbus-interface.md). C code sees them as errno values through
 * SD_BUS_ERROR_MAP. */
#define VL_BUS_ERROR(name)        "org.vlmd.Vision1.Error." name
#define VL_BUS_NO_SUCH_STREAM     VL_BUS_ERROR("NoSuchStream")
#define VL_BUS_NO_SUCH_MODEL      VL_BUS_ERROR("NoSuchModel")
#define VL_BUS_MODEL_IN_USE       VL_BUS_ERROR("ModelInUse")
#define VL_BUS_STREAM_EXISTS      VL_BUS_ERROR("StreamExists")
#define VL_BUS_INVALID_OPTION     VL_BUS_ERROR("InvalidOption")
#define VL_BUS_SOURCE_UNAVAILABLE VL_BUS_ERROR("SourceUnavailable")
#define VL_BUS_SOURCE_UNSUPPORTED VL_BUS_ERROR("SourceUnsupported")
#define VL_BUS_MODEL_INVALID      VL_BUS_ERROR("ModelInvalid")
#define VL_BUS_MODEL_UNSUPPORTED  VL_BUS_ERROR("ModelUnsupported")
#define VL_BUS_MODEL_NOT_READY    VL_BUS_ERROR("ModelNotReady")
#define VL_BUS_NO_MEMORY          VL_BUS_ERROR("NoMemory")
#define VL_BUS_NO_RESOURCES       VL_BUS_ERROR("NoResources")
#define VL_BUS_OVER_BUDGET        VL_BUS_ERROR("OverBudget")
#define VL_BUS_BUSY               VL_BUS_ERROR("Busy")
#define VL_BUS_DEADLINE_EXCEEDED  VL_BUS_ERROR("DeadlineExceeded")
#define VL_BUS_CANCELLED          VL_BUS_ERROR("Cancelled")
#define VL_BUS_SLOW_READER        VL_BUS_ERROR("SlowReader")
#define VL_BUS_NOTHING_SEEN       VL_BUS_ERROR("NothingSeen")
#define VL_BUS_TOO_LARGE          VL_BUS_ERROR("TooLarge")
#define VL_BUS_NOT_SUPPORTED      VL_BUS_ERROR("NotSupported")

int vl_bus_error_register(void); /* once, before the bus is opened */

/* As sd_bus_error_setf, but what callers wrote is made fit to be shown: text that is cut inside a character
 * is no text to the bus, and the caller would never hear of its error. */
int vl_bus_error_setf(sd_bus_error *e, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The name for a failure of the layers below that no handler gave a better one: memory, descriptors, else the
 * standard ones. The text is err's when it has one. Returns what a handler returns. */
int vl_bus_error_from(sd_bus_error *e, int code, const struct vl_error *err);
/* What a handler returns at its end: a failure that nobody named yet gets its name by the above. */
int vl_bus_named(sd_bus_error *e, int r);
/* Which of the model errors a failed load is. */
const char *vl_bus_model_error(int code);
#endif
