/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl captions: what was said, and with --follow what is being said, as text, JSON lines, WebVTT or SRT.
 */
#include "cli/vlmctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int copy_out(const struct vl_ctl *c, int fd)
{
    char buf[4096];
    for (;;) {
        ssize_t n = read(fd, buf, sizeof(buf));
        if (n == 0)
            return VL_EXIT_OK;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vl_ctl_failed(c, "captions", NULL, -errno);
        if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n || fflush(stdout))
            return VL_EXIT_FAILED; /* the reader of our output has gone */
    }
}

static int captions(struct vl_ctl *c, const char *name, const char *format, uint64_t since, bool follow)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    char *path = NULL;
    int fd, code = vl_ctl_stream_path(c, name, &path);
    if (code)
        return code;
    int r = sd_bus_call_method(c->bus, VL_BUS_NAME, path, VL_IFACE("Captions"), "Open", &e, &reply, "sa{sv}",
                               format, 2, "Since", "t", since, "Follow", "b", (int)follow);
    if (r >= 0)
        r = sd_bus_message_read(reply, "h", &fd);
    code = r < 0 ? vl_ctl_failed(c, name, &e, r) : copy_out(c, fd);
    free(path);
    sd_bus_error_free(&e);
    (void)sd_bus_message_unref(reply);
    return code;
}

static int run(struct vl_ctl *c, int argc, char **argv)
{
    const char *format = NULL;
    uint64_t since = 0;
    bool follow = false;
    const struct vl_opt opt[] = {
        {"--format", VL_OPT_TEXT, &format},
        {"--since", VL_OPT_TIME, &since},
        {"--follow", VL_OPT_FLAG, &follow},
        {NULL, VL_OPT_FLAG, NULL},
    };
    int n, code = vl_ctl_options(&vl_verb_captions, argc, argv, opt, &n);
    if (code)
        return code;
    if (n != 1)
        return vl_ctl_usage(&vl_verb_captions, "name one stream");
    if ((code = vl_ctl_connect(c)))
        return code;
    return captions(c, argv[1], format ? format : c->json ? "jsonl" : "text", since, follow);
}

const struct vl_verb vl_verb_captions = {
    .name = "captions",
    .usage = "  vlmctl captions NAME [--since T] [--follow] [--format text|jsonl|vtt|srt]\n",
    .help = "Prints the captions that are still kept; --follow goes on until the stream ends.",
    .run = run,
};
