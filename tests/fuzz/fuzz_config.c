/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Configuration text as a hostile or half-written file has it. The first byte chooses the kind of file and
 * whether unknown keys are errors; every refusal must say why, and what was accepted must hold its ranges. */
#include "base/log.h"
#include "daemon/config.h"
#include "daemon/limits.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void check(const struct vl_config *c)
{
    struct vl_error err;
    FUZZ_CHECK(c->max_streams >= 1 && c->max_streams <= VL_LIMIT_ALL_STREAMS);
    FUZZ_CHECK(c->max_queries >= 1 && c->max_queries <= VL_LIMIT_ALL_QUERIES);
    for (size_t i = 0; i < c->n_models; i++) {
        FUZZ_CHECK(c->model[i].name && c->model[i].text);
        FUZZ_CHECK(vl_config_model(c, c->model[i].name) == &c->model[i]);
        FUZZ_CHECK(c->model[i].context_tokens == 0 || c->model[i].context_tokens >= 1024);
    }
    for (size_t i = 0; i < c->n_streams; i++) {
        FUZZ_CHECK(vl_stream_spec_check(&c->stream[i], &err) == 0);
        FUZZ_CHECK(!c->stream[i].uri != !c->stream[i].path);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const kind[] = {"conf", "model", "stream"};
    static const char *const file[] = {"d/vlmd.conf", "d/m.model", "d/porch.stream"};
    vl_auto(vl_config) c = NULL;
    struct vl_error err = {0};
    if (size < 1 || vl_config_new(&c) < 0)
        return 0;
    vl_log_set_level(VL_LOG_ERR);
    size_t k = data[0] % 3;
    int r = vl_config_parse(c, kind[k], file[k], (const char *)data + 1, size - 1, data[0] & 0x80, &err);
    FUZZ_CHECK(r == 0 || (r < 0 && strncmp(err.msg, file[k], strlen(file[k])) == 0));
    check(c);
    return 0;
}
