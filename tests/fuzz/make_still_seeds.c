/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Writes the seeds of the still target: make-still-seeds tests/fuzz/corpus/still. Run by hand when the target
 * changes; the output is checked in. */
#include "base/cleanup.h"
#include "tests/pictures.h"

#include <stdio.h>

static const char *root;
enum { WIDE = 20, HIGH = 12 };

static void save(const char *name, struct encoded e)
{
    char path[1024];
    (void)snprintf(path, sizeof(path), "%s/%s", root, name);
    FILE *f = fopen(path, "we");
    if (!f || fwrite(e.p, 1, e.n, f) != e.n || fclose(f) != 0)
        perror(path);
    free(e.p);
}

static void jpegs(const uint8_t *rgb)
{
    static const struct {
        const char *name;
        struct jpeg_how how;
    } kind[] = {
        {"baseline.jpg", {.halved = true}},
        {"progressive.jpg", {.progressive = true, .orientation = 6}},
        {"grey.jpg", {.n_components = 1}},
        {"cmyk.jpg", {.n_components = 4}},
        {"separate.jpg", {.separate = true}},
        {"restarts.jpg", {.restart_rows = 1, .orientation = 3}},
        {"motorola.jpg", {.orientation = 8, .big_endian = true, .n_components = 1}},
    };
    for (size_t i = 0; i < sizeof(kind) / sizeof(*kind); i++)
        save(kind[i].name, picture_jpeg(rgb, WIDE, HIGH, &kind[i].how));
    save("bomb.jpg", picture_jpeg_bomb(65500, 65500));
}

static void pngs(const uint8_t *rgb)
{
    save("rgb.png", picture_png(rgb, 3 * WIDE, WIDE, HIGH, &(struct png_how){.color_type = 2, .depth = 8}));
    save("turned.png", picture_png(rgb, 3 * WIDE, WIDE, HIGH,
                                   &(struct png_how){.color_type = 2, .depth = 8, .orientation = 5}));
    save("interlaced.png", picture_png(rgb, 3 * WIDE, WIDE, HIGH,
                                       &(struct png_how){.color_type = 2, .depth = 8, .interlaced = true}));
    save("palette.png", picture_png(rgb, WIDE / 2, WIDE, HIGH,
                                    &(struct png_how){.color_type = 3, .depth = 4, .transparent = true}));
    save("grey16.png",
         picture_png(rgb, 2 * WIDE, WIDE, HIGH, &(struct png_how){.color_type = 0, .depth = 16}));
    save("bit.png", picture_png(rgb, 3, WIDE, HIGH, &(struct png_how){.color_type = 0, .depth = 1}));
    save("alpha.png", picture_png(rgb, 2 * WIDE, WIDE, HIGH, &(struct png_how){.color_type = 4, .depth = 8}));
    save("bomb.png", picture_png_bomb(65500, 65500));
}

static void webps(const uint8_t *rgb)
{
    struct encoded plain = picture_webp(rgb, WIDE, HIGH, 3, true);
    save("turned.webp", picture_webp_turned(plain, WIDE, HIGH, 7));
    save("moving.webp", picture_webp_animated(plain, WIDE, HIGH, 2, 4, WIDE + 8, HIGH + 8));
    save("lossless.webp", plain);
    save("lossy.webp", picture_webp(rgb, WIDE, HIGH, 3, false));
    save("bomb.webp", picture_webp_bomb(16384, 16384));
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 1;
    root = argv[1];
    vl_autofree uint8_t *rgb = picture_draw(WIDE, HIGH);
    jpegs(rgb);
    pngs(rgb);
    webps(rgb);
    return 0;
}
