/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A file, given as an open descriptor: fdsrc, typefind, a demuxer, a parser, and only when the parser has
 * told a size within the limits, a decoder. Assembled element by element from the tables of gst_formats.c.
 *
 * Threads: ours builds a pipeline, listens to its bus and tears it down, again and again for a loop; want and
 * frame are called on GStreamer's streaming thread, end on ours once that has stopped. The trap: building
 * goes on while data flows (have-type, pad-added, caps), all of it on the streaming thread; our thread only
 * reads what it wrote after the pipeline has been set to NULL.
 */
#include "base/clock.h"
#include "pipelines/gst_formats.h"
#include "pipelines/gst_plugins.h"
#include "pipelines/source.h"

#include <fcntl.h>
#include <gst/app/gstappsink.h>
#include <gst/app/gstappsrc.h>
#include <gst/gst.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_READ (64u << 20) /* bytes of a file at a time: more than any sample of a real one */
#define FRAME_NS                                                                                             \
    (40 * VL_NSEC_PER_MSEC) /* between the last picture and the first of the next turn, if unknown */

struct file_source {
    int fd;
    bool seekable, running;
    struct vl_source_limits limits;
    struct vl_source_out out;
    pthread_t thread;
    atomic_int stopping;
    /* one turn; the streaming thread's while the pipeline runs */
    GstElement *pipeline;
    const struct vl_gst_codec *codec; /* of the stream we watch; NULL: none found yet */
    GstElement *decoder_end;          /* its source pad has raw pictures; NULL: no decoder yet */
    GstSegment segment;
    struct vl_error error; /* the first thing that went wrong */
    char seen[64];         /* a stream that was there and is not ours, for the message */
    uint64_t n_pictures;
    /* Where a file that can be read anywhere is read next. Who reads it first thing, on whichever thread
     * GStreamer chose, sees all that was written before the turn began. */
    _Atomic int64_t read_at;
    /* over all turns */
    int64_t base_ns, last_ns, step_ns; /* of the turn's times; last time given; between the last two */
};

static const struct vl_param_desc no_params[] = {{NULL, NULL, 0, 0, 0}};

/* The streaming thread: remembers why, and has our thread end the turn. */
static void give_up(struct file_source *f, int code, const char *fmt, const char *arg)
{
    if (!f->error.code)
        (void)vl_error_set(&f->error, code, fmt, arg);
    f->error.code = code;
    (void)gst_element_post_message(
        f->pipeline,
        gst_message_new_application(GST_OBJECT(f->pipeline), gst_structure_new_empty("vlmd-give-up")));
}

static GstElement *add(struct file_source *f, const char *factory)
{
    GstElement *e = gst_element_factory_make(factory, NULL);
    if (!e)
        give_up(f, -ENOSYS, "GStreamer's %s is not installed; see gstreamer1.0-plugins-good, -bad and -ugly",
                factory);
    else if (!gst_bin_add(GST_BIN(f->pipeline), e))
        return NULL;
    return e;
}

/* Links the source pad to e's sink pad, and lets e run. Who pulls is linked first, since it looks for what it
 * may pull from when it starts; all else runs first, since data comes as soon as it is linked. */
static bool attach(struct file_source *f, GstPad *src, GstElement *e, bool pulls)
{
    GstPad *sink = gst_element_get_static_pad(e, "sink");
    bool ok = sink && (pulls || gst_element_sync_state_with_parent(e)) &&
              gst_pad_link(src, sink) == GST_PAD_LINK_OK && (!pulls || gst_element_sync_state_with_parent(e));
    if (sink)
        gst_object_unref(sink);
    if (!ok)
        give_up(f, -EBADMSG, "%s does not take this stream", GST_ELEMENT_NAME(e));
    return ok;
}

/* ---------------------------------------------------------------------------------------- raw pictures out
 */

/* Time of a picture in its medium, turn after turn. */
static int64_t media_time(struct file_source *f, const GstBuffer *b)
{
    if (!GST_BUFFER_PTS_IS_VALID(b) || f->segment.format != GST_FORMAT_TIME)
        return VL_PTS_NONE;
    guint64 t = gst_segment_to_stream_time(&f->segment, GST_FORMAT_TIME, GST_BUFFER_PTS(b));
    if (t > VL_FRAME_MAX_PTS_NS || (int64_t)t > VL_FRAME_MAX_PTS_NS - f->base_ns)
        return VL_PTS_NONE; /* outside of its segment, or nonsense */
    return (int64_t)t + f->base_ns;
}

/* What is not wanted is dropped before it is converted. */
static GstPadProbeReturn on_picture(GstPad *pad, GstPadProbeInfo *info, gpointer user)
{
    struct file_source *f = user;
    (void)pad;
    if (GST_PAD_PROBE_INFO_TYPE(info) & GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM) {
        GstEvent *e = GST_PAD_PROBE_INFO_EVENT(info);
        if (GST_EVENT_TYPE(e) == GST_EVENT_SEGMENT)
            gst_event_copy_segment(e, &f->segment);
        return GST_PAD_PROBE_OK;
    }
    int64_t t = media_time(f, GST_PAD_PROBE_INFO_BUFFER(info));
    if (t != VL_PTS_NONE) {
        if (t > f->last_ns && t - f->last_ns < 5 * VL_NSEC_PER_SEC)
            f->step_ns = t - f->last_ns;
        if (t > f->last_ns)
            f->last_ns = t;
    }
    f->n_pictures++;
    int wanted = f->out.want(f->out.user, t);
    if (wanted < 0) /* we are being stopped: no more decoding, and no end to tell of */
        atomic_store(&f->stopping, 1);
    return wanted == 1 ? GST_PAD_PROBE_OK : GST_PAD_PROBE_DROP;
}

static GstFlowReturn on_sample(GstAppSink *sink, gpointer user)
{
    struct file_source *f = user;
    GstSample *sample = gst_app_sink_pull_sample(sink);
    if (!sample)
        return GST_FLOW_EOS;
    struct vl_frame frame;
    struct vl_gst_mapped *m = vl_gst_map(sample, &frame);
    if (m) {
        f->out.frame(f->out.user, &frame);
        vl_gst_unmap(m);
    }
    gst_sample_unref(sample);
    return GST_FLOW_OK;
}

/* From raw pictures of any kind to the sink, which takes only what the frame socket can say. */
static bool add_sink(struct file_source *f, GstPad *raw)
{
    (void)gst_pad_add_probe(raw, GST_PAD_PROBE_TYPE_BUFFER | GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM, on_picture,
                            f, NULL);
    GstElement *convert = add(f, "videoconvert"), *sink = add(f, "appsink");
    if (!convert || !sink)
        return false;
    GstAppSinkCallbacks on = {.new_sample = on_sample};
    GstCaps *caps = gst_caps_from_string("video/x-raw,format=(string){I420,NV12,RGB,GRAY8}");
    g_object_set(sink, "sync", FALSE, "async", FALSE, "max-buffers", 1u, "caps", caps, NULL);
    gst_caps_unref(caps);
    gst_app_sink_set_callbacks(GST_APP_SINK(sink), &on, f, NULL);
    return gst_element_link(convert, sink) && gst_element_sync_state_with_parent(sink) &&
           attach(f, raw, convert, false);
}

/* ------------------------------------------------------------------------------ sizes, before any decoder */

enum size_check { SIZE_UNKNOWN, SIZE_GOOD, SIZE_REFUSED };

static enum size_check check_size(struct file_source *f, uint64_t w, uint64_t h)
{
    if (w <= f->limits.max_side && h <= f->limits.max_side && w * h <= f->limits.max_pixels)
        return SIZE_GOOD;
    char size[48];
    (void)g_snprintf(size, sizeof(size), "%llux%llu", (unsigned long long)w, (unsigned long long)h);
    give_up(f, -EMSGSIZE, "pictures of %s are over the limit", size);
    return SIZE_REFUSED;
}

static enum size_check check_caps(struct file_source *f, const GstCaps *caps)
{
    gint w = 0, h = 0;
    const GstStructure *s = gst_caps_get_structure(caps, 0);
    if (!gst_structure_get_int(s, "width", &w) || !gst_structure_get_int(s, "height", &h) || w <= 0 || h <= 0)
        return SIZE_UNKNOWN;
    return check_size(f, (uint64_t)w, (uint64_t)h);
}

/* VP8 has no parser; a key frame says its size in bytes 6 to 9 (RFC 6386, 9.1). The container may have lied.
 */
static enum size_check check_vp8(struct file_source *f, GstBuffer *b)
{
    guint8 h[10];
    if (gst_buffer_extract(b, 0, h, sizeof(h)) < sizeof(h) || (h[0] & 1))
        return SIZE_UNKNOWN; /* not a key frame */
    return check_size(f, (h[6] | h[7] << 8) & 0x3fff, (h[8] | h[9] << 8) & 0x3fff);
}

static bool add_decoder(struct file_source *f, GstPad *pad)
{
    if (!*f->codec->decoders) {
        f->decoder_end = gst_pad_get_parent_element(pad);
        gst_object_unref(f->decoder_end); /* the pipeline holds it */
        return add_sink(f, pad);
    }
    GstElement *decoder = vl_gst_make_decoder(f->codec);
    if (!decoder) {
        give_up(f, -ENOSYS, "no decoder for %s is installed; Debian has one in gstreamer1.0-libav",
                f->codec->type);
        return false;
    }
    (void)gst_bin_add(GST_BIN(f->pipeline), decoder);
    GstPad *raw = gst_element_get_static_pad(decoder, "src");
    bool ok = raw && add_sink(f, raw) && attach(f, pad, decoder, false);
    if (raw)
        gst_object_unref(raw);
    f->decoder_end = decoder;
    return ok;
}

/* On the pad that a decoder would be linked to. Every CAPS event is checked, those in mid-stream too; until
 * one was good there is no decoder and nothing passes. */
static GstPadProbeReturn on_parsed(GstPad *pad, GstPadProbeInfo *info, gpointer user)
{
    struct file_source *f = user;
    enum size_check size = SIZE_UNKNOWN;
    if (GST_PAD_PROBE_INFO_TYPE(info) & GST_PAD_PROBE_TYPE_BUFFER) {
        if (!strcmp(f->codec->type, "video/x-vp8"))
            size = check_vp8(f, GST_PAD_PROBE_INFO_BUFFER(info));
        return f->decoder_end && size != SIZE_REFUSED && !f->error.code ? GST_PAD_PROBE_OK
                                                                        : GST_PAD_PROBE_DROP;
    }
    GstEvent *e = GST_PAD_PROBE_INFO_EVENT(info);
    if (GST_EVENT_TYPE(e) != GST_EVENT_CAPS)
        return GST_PAD_PROBE_OK;
    GstCaps *caps = NULL;
    gst_event_parse_caps(e, &caps);
    size = check_caps(f, caps);
    if (size == SIZE_REFUSED)
        return GST_PAD_PROBE_DROP;
    if (size == SIZE_GOOD && !f->decoder_end && !f->error.code)
        (void)add_decoder(f, pad); /* it has said what went wrong */
    return GST_PAD_PROBE_OK;
}

/* ---------------------------------------------------------------------------------- from bytes to a stream
 */

static void add_stream(struct file_source *f, GstPad *src, const struct vl_gst_codec *codec)
{
    f->codec = codec;
    GstPad *end = gst_object_ref(src);
    if (codec->parser) {
        GstElement *parser = add(f, codec->parser), *filter = codec->parsed ? add(f, "capsfilter") : NULL;
        if (parser && filter) {
            GstCaps *caps = gst_caps_from_string(codec->parsed);
            g_object_set(filter, "caps", caps, NULL);
            gst_caps_unref(caps);
            if (!gst_element_link(parser, filter) || !gst_element_sync_state_with_parent(filter))
                parser = NULL;
        }
        gst_object_unref(end);
        end = parser ? gst_element_get_static_pad(filter ? filter : parser, "src") : NULL;
        if (!end)
            return;
        (void)gst_pad_add_probe(end, GST_PAD_PROBE_TYPE_BUFFER | GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM,
                                on_parsed, f, NULL);
        (void)attach(f, src, parser, false);
    } else {
        (void)gst_pad_add_probe(end, GST_PAD_PROBE_TYPE_BUFFER | GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM,
                                on_parsed, f, NULL);
        GstCaps *caps = gst_pad_get_current_caps(end); /* its CAPS event has passed already */
        if (caps && check_caps(f, caps) == SIZE_GOOD)
            (void)add_decoder(f, end);
        if (caps)
            gst_caps_unref(caps);
    }
    gst_object_unref(end);
}

static void on_pad(GstElement *demuxer, GstPad *pad, gpointer user)
{
    struct file_source *f = user;
    (void)demuxer;
    GstCaps *caps = gst_pad_get_current_caps(pad);
    if (!caps)
        caps = gst_pad_query_caps(pad, NULL);
    const struct vl_gst_codec *codec =
        caps && !gst_caps_is_empty(caps) && !gst_caps_is_any(caps) ? vl_gst_codec_for(caps) : NULL;
    if (codec && !f->codec)
        add_stream(f, pad, codec);
    else if (!codec && caps && gst_caps_get_size(caps) > 0 &&
             (!f->seen[0] ||
              g_str_has_prefix(gst_structure_get_name(gst_caps_get_structure(caps, 0)), "video/")))
        (void)g_strlcpy(f->seen, gst_structure_get_name(gst_caps_get_structure(caps, 0)), sizeof(f->seen));
    if (caps)
        gst_caps_unref(caps);
}

static void on_no_more_pads(GstElement *demuxer, gpointer user)
{
    struct file_source *f = user;
    (void)demuxer;
    if (!f->codec)
        give_up(f, -ENOTSUP, "the file has no video that is read here; it has %s",
                f->seen[0] ? f->seen : "nothing");
}

static void on_type(GstElement *typefind, guint probability, GstCaps *caps, gpointer user)
{
    struct file_source *f = user;
    (void)probability;
    GstPad *src = gst_element_get_static_pad(typefind, "src");
    const char *name = vl_gst_demuxer_for(caps);
    const struct vl_gst_codec *codec = vl_gst_codec_for(caps);
    if (name) {
        GstElement *demuxer = add(f, name);
        if (demuxer) {
            (void)g_signal_connect(demuxer, "pad-added", G_CALLBACK(on_pad), f);
            (void)g_signal_connect(demuxer, "no-more-pads", G_CALLBACK(on_no_more_pads), f);
            (void)attach(f, src, demuxer, f->seekable && !strcmp(name, "qtdemux"));
        }
    } else if (codec) {
        add_stream(f, src, codec);
    } else {
        const char *type = gst_structure_get_name(gst_caps_get_structure(caps, 0));
        give_up(f, -ENOTSUP,
                g_str_has_prefix(type, "image/")
                    ? "this is a picture (%s), not a video; pictures are read as JPEG, PNG or WebP"
                    : "files of type %s are not read",
                type);
    }
    gst_object_unref(src);
}

/* ------------------------------------------------------------------------------------------------ one turn
 */

/* The streaming thread asks for bytes of a file, in any order: demuxers that may choose lose nothing where
 * one track's bytes end before another's, which they do when they are fed from front to back. */
static gboolean on_seek(GstAppSrc *src, guint64 offset, gpointer user)
{
    struct file_source *f = user;
    (void)src;
    if (offset > INT64_MAX)
        return FALSE;
    (void)atomic_exchange(&f->read_at, (int64_t)offset);
    return TRUE;
}

/* Up to n bytes at `at`. NULL: none, *ret_errno says why, 0 is the end of the file. */
static GstBuffer *read_bytes(struct file_source *f, int64_t at, gsize n, int *ret_errno)
{
    GstBuffer *b = n ? gst_buffer_new_allocate(NULL, n, NULL) : NULL;
    GstMapInfo map;
    gsize done = 0;
    *ret_errno = n && !b ? ENOMEM : 0;
    if (b && gst_buffer_map(b, &map, GST_MAP_WRITE)) {
        ssize_t got = 1;
        while (done < n && got > 0) {
            do
                got = pread(f->fd, map.data + done, n - done, (off_t)at + (off_t)done);
            while (got < 0 && errno == EINTR);
            done += got > 0 ? (gsize)got : 0;
        }
        if (got < 0 && !done)
            *ret_errno = errno;
        gst_buffer_unmap(b, &map);
    }
    if (!done)
        return b ? (gst_buffer_unref(b), NULL) : NULL;
    gst_buffer_resize(b, 0, (gssize)done);
    atomic_store(&f->read_at, at + (int64_t)done);
    return b;
}

/* A file may be growing while it is read. */
static void on_need(GstAppSrc *src, guint length, gpointer user)
{
    struct file_source *f = user;
    const int64_t at = atomic_load(&f->read_at);
    struct stat st;
    guint64 left = 0;
    int code;
    if (fstat(f->fd, &st) == 0) {
        gst_app_src_set_size(src, st.st_size);
        left = st.st_size > at ? (guint64)(st.st_size - at) : 0;
    }
    GstBuffer *b = read_bytes(f, at, MIN(MIN(length, MAX_READ), left), &code);
    if (b) {
        (void)gst_app_src_push_buffer(src, b); /* refused while it is being stopped */
        return;
    }
    if (code)
        give_up(f, code == ENOMEM ? -ENOMEM : -EIO, "the file cannot be read: %s", strerror(code));
    (void)gst_app_src_end_of_stream(src);
}

static GstElement *add_bytes(struct file_source *f)
{
    GstElement *src = add(f, f->seekable ? "appsrc" : "fdsrc");
    struct stat st;
    if (src && !f->seekable)
        g_object_set(src, "fd", f->fd, NULL);
    if (!src || !f->seekable)
        return src;
    atomic_store(&f->read_at, 0);
    g_object_set(src, "format", GST_FORMAT_BYTES, "stream-type", GST_APP_STREAM_TYPE_RANDOM_ACCESS, "size",
                 fstat(f->fd, &st) == 0 ? (gint64)st.st_size : (gint64)-1, "blocksize", 65536u, NULL);
    GstAppSrcCallbacks on = {.need_data = on_need, .seek_data = on_seek};
    gst_app_src_set_callbacks(GST_APP_SRC(src), &on, f, NULL);
    return src;
}

static int build(struct file_source *f)
{
    f->pipeline = gst_pipeline_new(NULL);
    f->codec = NULL;
    f->decoder_end = NULL;
    f->seen[0] = '\0';
    f->n_pictures = 0;
    f->error = (struct vl_error){.code = 0};
    gst_segment_init(&f->segment, GST_FORMAT_UNDEFINED);
    GstElement *src = add_bytes(f), *typefind = add(f, "typefind");
    if (!src || !typefind || !gst_element_link(src, typefind))
        return vl_error_set(&f->error, -ENOSYS, "GStreamer's core elements are not installed");
    (void)g_signal_connect(typefind, "have-type", G_CALLBACK(on_type), f);
    return 0;
}

/* What GStreamer says, as an errno that source.h gives a meaning. */
static int code_of(const GError *e)
{
    if (e->domain == GST_RESOURCE_ERROR)
        return e->code == GST_RESOURCE_ERROR_NO_SPACE_LEFT ? -ENOMEM : -EIO;
    if (e->domain == GST_STREAM_ERROR && e->code == GST_STREAM_ERROR_CODEC_NOT_FOUND)
        return -ENOTSUP;
    return -EBADMSG;
}

/* Until the end, an error, or stop. What the streaming thread found comes first: GStreamer's own message is
 * then only that data could not flow on. */
static int listen(struct file_source *f, struct vl_error *bus_error)
{
    int r = 0;
    bool done = false;
    GstBus *bus = gst_element_get_bus(f->pipeline);
    while (!done && !atomic_load(&f->stopping)) {
        GstMessage *m = gst_bus_timed_pop_filtered(
            bus, 50 * GST_MSECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR | GST_MESSAGE_APPLICATION);
        if (!m)
            continue;
        done = true;
        if (GST_MESSAGE_TYPE(m) == GST_MESSAGE_ERROR) {
            GError *e = NULL;
            gst_message_parse_error(m, &e, NULL);
            r = vl_error_set(bus_error, code_of(e), "%s",
                             g_error_matches(e, GST_STREAM_ERROR, GST_STREAM_ERROR_TYPE_NOT_FOUND)
                                 ? "neither a video nor a picture of a kind that is known here"
                                 : e->message);
            g_clear_error(&e);
        }
        gst_message_unref(m);
    }
    gst_object_unref(bus);
    return r;
}

/* One pass over the file. 0: to its end. */
static int play(struct file_source *f, struct vl_error *err)
{
    int r = build(f);
    if (r == 0 && gst_element_set_state(f->pipeline, GST_STATE_PLAYING) == GST_STATE_CHANGE_FAILURE)
        r = vl_error_set(err, -EIO, "the file cannot be read");
    if (r == 0)
        r = listen(f, err);
    (void)gst_element_set_state(f->pipeline, GST_STATE_NULL); /* to NULL it is synchronous */
    gst_object_unref(f->pipeline);
    f->pipeline = NULL;
    if (f->error.code) {
        *err = f->error;
        return err->code;
    }
    if (r == 0 && f->n_pictures == 0 && !atomic_load(&f->stopping))
        return vl_error_set(err, -EBADMSG, "the file ends without a picture");
    return r;
}

static void *file_run(void *arg)
{
    struct file_source *f = arg;
    struct vl_error err = {0};
    int r;
    for (;;) {
        r = play(f, &err);
        if (r < 0 || !f->limits.loop || !f->seekable || atomic_load(&f->stopping))
            break;
        if (lseek(f->fd, 0, SEEK_SET) < 0) {
            r = vl_error_set(&err, -EIO, "the file cannot be read again: %s", strerror(errno));
            break;
        }
        f->base_ns = f->last_ns + f->step_ns;
    }
    if (!atomic_load(&f->stopping))
        f->out.end(f->out.user, r, &err);
    return NULL;
}

static int file_open(void *state, const char *uri, int fd, const struct vl_source_limits *limits,
                     struct vl_error *err)
{
    struct file_source *f = state;
    struct stat st;
    f->fd = fd;
    f->limits = *limits;
    f->step_ns = FRAME_NS;
    f->base_ns = limits->start_ns;
    if (uri && *uri)
        return vl_error_set(err, -EINVAL, "a file is given as a descriptor, not as '%.64s'", uri);
    int mode = fcntl(fd, F_GETFL);
    if (fd < 0 || mode < 0 || fstat(fd, &st) < 0)
        return vl_error_set(err, -EBADF, "a file is given as an open descriptor, and there is none");
    if ((mode & O_PATH) || (mode & O_ACCMODE) == O_WRONLY)
        return vl_error_set(err, -EINVAL, "the descriptor is not open for reading");
    if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
        return vl_error_set(err, -EINVAL, "the descriptor is neither a file nor a pipe");
    f->seekable = S_ISREG(st.st_mode) && lseek(fd, 0, SEEK_SET) == 0;
    return 0;
}

static int file_start(void *state, const struct vl_source_out *out)
{
    struct file_source *f = state;
    f->out = *out;
    int r = pthread_create(&f->thread, NULL, file_run, f);
    f->running = r == 0;
    return -r;
}

static void file_stop(void *state)
{
    struct file_source *f = state;
    if (!f->running)
        return;
    atomic_store(&f->stopping, 1);
    (void)pthread_join(f->thread, NULL);
    f->running = false;
}

static void file_close(void *state)
{
    struct file_source *f = state;
    if (f->limits.max_side) /* opened */
        vl_closep(&f->fd);
    f->limits.max_side = 0;
}

const struct vl_source_ops vl_source_file = {
    .scheme = "file",
    .help = "a video file, given as an open descriptor",
    .params = no_params,
    .state_size = sizeof(struct file_source),
    .max_step_ns = 600 * VL_NSEC_PER_SEC,
    .prepare = vl_gst_load_plugins,
    .open = file_open,
    .start = file_start,
    .stop = file_stop,
    .close = file_close,
};
