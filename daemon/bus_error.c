/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Error names of the interface beside their errno. Registered by call: the linker section that
 * SD_BUS_ERROR_MAP_ELF_REGISTER fills is read inside libsystemd only. Process lifetime.
 */
#include "daemon/bus_error.h"

#include "base/text.h"

#include <stdio.h>
#include <string.h>

static const sd_bus_error_map error_map[] = {
    SD_BUS_ERROR_MAP(VL_BUS_NO_SUCH_STREAM, ENOENT),
    SD_BUS_ERROR_MAP(VL_BUS_NO_SUCH_MODEL, ESRCH),
    SD_BUS_ERROR_MAP(VL_BUS_MODEL_IN_USE, ETXTBSY),
    SD_BUS_ERROR_MAP(VL_BUS_STREAM_EXISTS, EEXIST),
    SD_BUS_ERROR_MAP(VL_BUS_INVALID_OPTION, EINVAL),
    SD_BUS_ERROR_MAP(VL_BUS_SOURCE_UNAVAILABLE, EHOSTUNREACH),
    SD_BUS_ERROR_MAP(VL_BUS_SOURCE_UNSUPPORTED, EPROTONOSUPPORT),
    SD_BUS_ERROR_MAP(VL_BUS_MODEL_INVALID, EBADMSG),
    SD_BUS_ERROR_MAP(VL_BUS_MODEL_UNSUPPORTED, ENOTSUP),
    SD_BUS_ERROR_MAP(VL_BUS_MODEL_NOT_READY, EUNATCH),
    SD_BUS_ERROR_MAP(VL_BUS_NO_MEMORY, ENOMEM),
    SD_BUS_ERROR_MAP(VL_BUS_NO_RESOURCES, EMFILE),
    SD_BUS_ERROR_MAP(VL_BUS_OVER_BUDGET, EDQUOT),
    SD_BUS_ERROR_MAP(VL_BUS_BUSY, EBUSY),
    SD_BUS_ERROR_MAP(VL_BUS_DEADLINE_EXCEEDED, ETIME),
    SD_BUS_ERROR_MAP(VL_BUS_CANCELLED, ECANCELED),
    SD_BUS_ERROR_MAP(VL_BUS_SLOW_READER, EPIPE),
    SD_BUS_ERROR_MAP(VL_BUS_NOTHING_SEEN, ENODATA),
    SD_BUS_ERROR_MAP(VL_BUS_TOO_LARGE, E2BIG),
    SD_BUS_ERROR_MAP(VL_BUS_NOT_SUPPORTED, EOPNOTSUPP),
    SD_BUS_ERROR_MAP_END,
};

int vl_bus_error_register(void)
{
    return sd_bus_error_add_map(error_map);
}

int vl_bus_error_setf(sd_bus_error *e, const char *name, const char *fmt, ...)
{
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof(msg), fmt, ap); /* a message that is too long is cut */
    va_end(ap);
    vl_text_clean(msg);
    return sd_bus_error_set(e, name, msg);
}

int vl_bus_error_from(sd_bus_error *e, int code, const struct vl_error *err)
{
    const char *msg = err && err->msg[0] ? err->msg : strerror(-code);
    switch (-code) {
    case ENOMEM:
        return sd_bus_error_set(e, VL_BUS_NO_MEMORY, msg);
    case EMFILE:
    case ENFILE:
    case EAGAIN:
        return sd_bus_error_set(e, VL_BUS_NO_RESOURCES, msg);
    case EINVAL:
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, msg);
    case ENOSPC:
        return sd_bus_error_set(e, VL_BUS_OVER_BUDGET, msg);
    case ENOTSUP:
        return sd_bus_error_set(e, VL_BUS_NOT_SUPPORTED, msg);
    default:
        return sd_bus_error_set(e, SD_BUS_ERROR_FAILED, msg);
    }
}

int vl_bus_named(sd_bus_error *e, int r)
{
    return r < 0 && !sd_bus_error_is_set(e) ? vl_bus_error_from(e, r, NULL) : r;
}

const char *vl_bus_model_error(int code)
{
    switch (-code) {
    case ENOENT:
    case EACCES:
        return VL_BUS_MODEL_NOT_READY;
    case ENOMEM:
        return VL_BUS_NO_MEMORY;
    case EDQUOT:
        return VL_BUS_OVER_BUDGET;
    case ENOTSUP:
        return VL_BUS_MODEL_UNSUPPORTED;
    default:
        return VL_BUS_MODEL_INVALID;
    }
}
