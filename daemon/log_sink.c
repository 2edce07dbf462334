/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The log's sink. Called on any thread that logs; the target is one word that the main thread may change.
 * Journal fields are put together in a buffer of our own: nothing here allocates beyond what sd_journal_sendv
 * does.
 */
#include "daemon/log_sink.h"

#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

enum { MAX_FIELDS = 4, FIELD_BYTES = 1200 };
static atomic_int target = VL_LOG_TARGET_CONSOLE;

static void to_journal(enum vl_log_level level, const char *topic, const char *msg,
                       const struct vl_log_field *field, size_t n_fields)
{
    char text[4 + MAX_FIELDS][FIELD_BYTES];
    struct iovec iov[4 + MAX_FIELDS];
    size_t n = 0;
    (void)snprintf(text[n++], FIELD_BYTES, "PRIORITY=%d", (int)level);
    (void)snprintf(text[n++], FIELD_BYTES, "SYSLOG_IDENTIFIER=vlmd");
    (void)snprintf(text[n++], FIELD_BYTES, "VLMD_TOPIC=%s", topic);
    (void)snprintf(text[n++], FIELD_BYTES, "MESSAGE=%s: %s", topic, msg);
    for (size_t i = 0; i < n_fields && i < MAX_FIELDS; i++)
        (void)snprintf(text[n++], FIELD_BYTES, "%s=%s", field[i].key, field[i].value);
    for (size_t i = 0; i < n; i++)
        iov[i] = (struct iovec){text[i], strlen(text[i])};
    (void)sd_journal_sendv(iov, (int)n); /* no journal, no line */
}

static void sink(void *user, enum vl_log_level level, const char *topic, const char *msg,
                 const struct vl_log_field *field, size_t n_fields)
{
    (void)user;
    if (atomic_load_explicit(&target, memory_order_relaxed) == VL_LOG_TARGET_JOURNAL)
        to_journal(level, topic, msg, field, n_fields);
    else
        (void)fprintf(stderr, "vlmd: %s: %s\n", topic, msg);
}

/* systemd says which device and inode its journal socket has; a redirected stderr has others. */
static enum vl_log_target detect(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;
    if (stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
        st.st_dev == dev && st.st_ino == ino)
        return VL_LOG_TARGET_JOURNAL;
    return VL_LOG_TARGET_CONSOLE;
}

void vl_log_sink_set(enum vl_log_target t)
{
    atomic_store_explicit(&target, (int)(t == VL_LOG_TARGET_AUTO ? detect() : t), memory_order_relaxed);
    vl_log_set_sink(sink, NULL);
}

enum vl_log_target vl_log_sink_get(void)
{
    return (enum vl_log_target)atomic_load_explicit(&target, memory_order_relaxed);
}
