/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * Pictures of the drawn world: a texture, shapes by signed distance, noise, and
 * what a codec does to them (4:2:0, quantised 8x8 DCT). No state; any thread.
 *
 * The looks vary a lot on purpose: a model that has seen one renderer only does
 * not recognise the shapes of another. Everything comes from the seeds of the
 * scene, so the same scene is the same bytes.
 */
#include "pipelines/world.h"

#include "base/random.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PI       3.14159265358979f
#define GRID_MAX 13
#define N_BLOBS  4

struct grey_grid {
    int n; /* cells a side */
    float value[3][GRID_MAX + 2][GRID_MAX + 2];
};

struct texture {
    struct grey_grid grid;
    float stripe_x, stripe_y, stripe_phase, stripe_amplitude;
    int stripe_square; /* bars rather than waves */
    float slope_x, slope_y;
    float blob[N_BLOBS][4]; /* x, y, 1/radius^2, amplitude */
};

static float random_unit(uint64_t *rng)
{
    return (float)(vl_random_u64(rng) >> 40) * (1.0f / 16777216.0f);
}

static float random_between(uint64_t *rng, float low, float high)
{
    return low + (high - low) * random_unit(rng);
}

static float clamp(float v, float low, float high)
{
    return v < low ? low : v > high ? high : v;
}

/*
 * Three anchors for each colour name; a look mixes them. Far enough from each
 * other that no mix is another's: orange keeps from red and yellow.
 */
static const float colour_anchors[VL_WORLD_N_COLOURS][3][3] = {
    {{.86f, .12f, .12f}, {1, 0, 0}, {.78f, .07f, .13f}},
    {{.97f, .55f, .08f}, {1, .647f, 0}, {.94f, .47f, .04f}},
    {{.95f, .9f, .15f}, {1, 1, 0}, {.98f, .86f, .1f}},
    {{.12f, .7f, .2f}, {0, .5f, 0}, {.08f, .93f, .1f}},
    {{.15f, .85f, .9f}, {0, 1, 1}, {.05f, .76f, .82f}},
    {{.15f, .25f, .9f}, {0, 0, 1}, {.1f, .36f, .86f}},
    {{.6f, .2f, .8f}, {.5f, 0, .5f}, {.68f, .15f, .72f}},
    {{.97f, .97f, .97f}, {1, 1, 1}, {.87f, .87f, .87f}},
};

static float box_distance(float x, float y, float half_width, float half_height)
{
    float dx = fabsf(x) - half_width, dy = fabsf(y) - half_height;
    float ox = dx > 0 ? dx : 0, oy = dy > 0 ? dy : 0;
    return sqrtf(ox * ox + oy * oy) + fminf(fmaxf(dx, dy), 0);
}

/* Triangle pointing up: base at y = .62, tip at y = -.95, half base b */
static float triangle_distance(float x, float y, float b)
{
    float nx = 1.57f, ny = -b, norm = sqrtf(nx * nx + ny * ny);
    float side = (fabsf(x) * nx + (y + 0.95f) * ny) / norm;
    return fmaxf(y - 0.62f, side);
}

/* Five-pointed star of radius 1.05; inner is the inner radius over the outer one. */
static float star_distance(float x, float y, float inner)
{
    const float k1x = 0.809016994f, k1y = -0.587785252f, r = 1.05f;
    float bax, bay, h, ex, ey, d;
    x = fabsf(x);
    y = -y;
    d = 2 * fmaxf(k1x * x + k1y * y, 0);
    x -= d * k1x;
    y -= d * k1y;
    d = 2 * fmaxf(-k1x * x + k1y * y, 0);
    x -= d * -k1x;
    y -= d * k1y;
    x = fabsf(x);
    y -= r;
    bax = inner * -k1y;
    bay = inner * k1x - 1;
    h = clamp((x * bax + y * bay) / (bax * bax + bay * bay), 0, r);
    ex = x - bax * h;
    ey = y - bay * h;
    return sqrtf(ex * ex + ey * ey) * ((y * bax - x * bay) > 0 ? 1.0f : -1.0f);
}

static float moon_distance(float x, float y, float line)
{
    float shift = 0.42f + 0.2f * (1 - line);
    float hole = 0.84f - 0.1f * line - 0.12f * (1 - line);
    float outer = sqrtf(x * x + y * y) - 0.98f;
    float dx = x - shift;
    return fmaxf(outer, hole - sqrtf(dx * dx + y * y));
}

/* Signed distance to the outline in units of the radius, y down. */
static float shape_distance(int shape, float x, float y, float line)
{
    float tall;
    switch (shape) {
    case VL_WORLD_CIRCLE:
        return sqrtf(x * x + y * y) - 0.95f;
    case VL_WORLD_SQUARE:
        return box_distance(x, y, 0.82f, 0.82f);
    case VL_WORLD_TRIANGLE:
        return triangle_distance(x, y, 0.82f + 0.22f * line);
    case VL_WORLD_STAR:
        return star_distance(x, y, 0.38f + 0.14f * line);
    case VL_WORLD_CROSS:
        return fminf(box_distance(x, y, 0.95f, 0.18f + 0.2f * line),
                     box_distance(x, y, 0.18f + 0.2f * line, 0.95f));
    case VL_WORLD_RING:
        return fabsf(sqrtf(x * x + y * y) - 0.78f + 0.1f * line) - (0.11f + 0.15f * line);
    case VL_WORLD_DIAMOND:
        tall = 1 - 0.36f * line; /* narrower than high, or a square on its tip */
        return (fabsf(x) / tall + fabsf(y) - 1) * tall / sqrtf(1 + tall * tall);
    case VL_WORLD_MOON:
        return moon_distance(x, y, line);
    default:
        return 1;
    }
}

/* The same with corners rounded off, for shapes that have corners outwards. */
static float rounded_distance(const struct vl_world_object *object, float x, float y)
{
    float round = 0;
    if (object->shape == VL_WORLD_SQUARE || object->shape == VL_WORLD_TRIANGLE ||
        object->shape == VL_WORLD_DIAMOND)
        round = 0.16f * object->look.roundness;
    else if (object->shape == VL_WORLD_STAR || object->shape == VL_WORLD_CROSS)
        round = 0.07f * object->look.roundness;
    if (round <= 0)
        return shape_distance(object->shape, x, y, object->look.line);
    /* distances grow outwards from a smaller shape: its corners become arcs */
    return shape_distance(object->shape, x / (1 - round), y / (1 - round), object->look.line) * (1 - round) -
           round;
}

static void random_texture(uint64_t seed, struct texture *ret)
{
    uint64_t rng = seed;
    float base = random_between(&rng, 0.06f, 0.62f);
    bool even = random_unit(&rng) < 0.12f;
    float amplitude = even ? 0.01f : random_between(&rng, 0.03f, 0.17f);
    float colour_amplitude = even ? 0.005f : random_between(&rng, 0.01f, 0.08f);
    float tint[3];
    *ret = (struct texture){.grid.n = 2 + (int)(vl_random_u64(&rng) % 10)};
    for (int c = 0; c < 3; c++)
        tint[c] = random_between(&rng, -0.08f, 0.08f);
    for (int y = 0; y < ret->grid.n + 2; y++)
        for (int x = 0; x < ret->grid.n + 2; x++) {
            float level = base + random_between(&rng, -amplitude, amplitude);
            for (int c = 0; c < 3; c++)
                ret->grid.value[c][y][x] =
                    level + tint[c] + random_between(&rng, -colour_amplitude, colour_amplitude);
        }
    if (!even && random_unit(&rng) < 0.35f) {
        ret->stripe_amplitude = random_between(&rng, 0.02f, 0.08f);
        ret->stripe_square = random_unit(&rng) < 0.35f;
    }
    ret->stripe_x = random_between(&rng, -45, 45);
    ret->stripe_y = random_between(&rng, -45, 45);
    ret->stripe_phase = random_between(&rng, 0, 6);
    ret->slope_x = even ? 0 : random_between(&rng, -0.1f, 0.1f);
    ret->slope_y = even ? 0 : random_between(&rng, -0.1f, 0.1f);
    for (int i = 0; i < N_BLOBS; i++) {
        float radius = random_between(&rng, 0.05f, 0.3f);
        ret->blob[i][0] = random_unit(&rng);
        ret->blob[i][1] = random_unit(&rng);
        ret->blob[i][2] = 1 / (radius * radius);
        ret->blob[i][3] = even || random_unit(&rng) < 0.6f ? 0 : random_between(&rng, -0.1f, 0.12f);
    }
}

/* What is added to all channels at (x, y). */
static float texture_light(const struct texture *texture, float x, float y)
{
    float light = texture->slope_x * (x - 0.5f) + texture->slope_y * (y - 0.5f);
    if (texture->stripe_amplitude > 0) {
        float wave = sinf(texture->stripe_x * x + texture->stripe_y * y + texture->stripe_phase);
        light += texture->stripe_amplitude * (texture->stripe_square ? (wave > 0 ? 0.7f : -0.7f) : wave);
    }
    for (int i = 0; i < N_BLOBS; i++) {
        float dx = x - texture->blob[i][0], dy = y - texture->blob[i][1];
        float t = 1 - (dx * dx + dy * dy) * texture->blob[i][2];
        if (texture->blob[i][3] != 0 && t > 0)
            light += texture->blob[i][3] * t * t;
    }
    return light;
}

/* planes: [3, height, width], 0..1 */
static void draw_texture(const struct texture *texture, int width, int height, float *planes)
{
    size_t plane = (size_t)width * (size_t)height;
    for (int y = 0; y < height; y++) {
        float v = ((float)y + 0.5f) / (float)height, gy = v * (float)texture->grid.n;
        int iy = (int)gy;
        float wy = gy - (float)iy;
        for (int x = 0; x < width; x++) {
            float u = ((float)x + 0.5f) / (float)width, gx = u * (float)texture->grid.n;
            int ix = (int)gx;
            float wx = gx - (float)ix, light = texture_light(texture, u, v);
            for (int c = 0; c < 3; c++) {
                const float *above = &texture->grid.value[c][iy][ix];
                const float *below = &texture->grid.value[c][iy + 1][ix];
                planes[(size_t)c * plane + (size_t)y * (size_t)width + (size_t)x] =
                    (above[0] * (1 - wx) + above[1] * wx) * (1 - wy) +
                    (below[0] * (1 - wx) + below[1] * wx) * wy + light;
            }
        }
    }
}

/* One pixel of an object: d is the distance in pixels outside all that is drawn, the outline in it. */
static void blend(const struct vl_world_object *object, const float *colour, float d, float edge, float y,
                  float *planes, size_t plane, size_t at)
{
    const struct vl_world_look *look = &object->look;
    float line_width = look->outline;
    float cover = clamp(0.5f - d / edge, 0, 1);
    if (cover <= 0)
        return;
    for (int c = 0; c < 3; c++) {
        float value = colour[c] * (1 + look->shade * y);
        if (line_width > 0) { /* the line lies outside: inside it would eat thin shapes */
            float line = clamp(0.5f + d / edge + line_width, 0, 1);
            value = value * (1 - line) + look->outline_grey * line;
        }
        planes[(size_t)c * plane + at] = planes[(size_t)c * plane + at] * (1 - cover) + value * cover;
    }
}

static void draw_object(const struct vl_world_object *object, int index, int width, int height, float *planes,
                        uint8_t *owner)
{
    const struct vl_world_look *look = &object->look;
    size_t plane = (size_t)width * (size_t)height;
    float root = sqrtf((float)width * (float)height);
    float radius = object->radius * root, edge = fmaxf(1, look->softness * root);
    float line = look->outline * radius;
    float cx = object->x * (float)width, cy = object->y * (float)height;
    float cosine = cosf(look->turn), sine = sinf(look->turn), colour[3] = {0};
    float reach = 1.35f * radius + line + edge;
    int x0 = (int)fmaxf(0, cx - reach), x1 = (int)fminf((float)width, cx + reach + 2);
    int y0 = (int)fmaxf(0, cy - reach), y1 = (int)fminf((float)height, cy + reach + 2);
    struct vl_world_object drawn = *object;
    /* blend() wants the line in units of the edge, and the outline moved outwards by it */
    drawn.look.outline = line > 0 ? line / edge : 0;
    for (int a = 0; a < 3; a++)
        for (int c = 0; c < 3; c++)
            colour[c] += colour_anchors[object->colour & 7][a][c] * look->tint[a] * look->brightness;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) {
            float dx = ((float)x + 0.5f - cx) / radius, dy = ((float)y + 0.5f - cy) / radius;
            float u = (cosine * dx + sine * dy) * look->mirror, v = -sine * dx + cosine * dy;
            float d = rounded_distance(object, u / look->stretch + look->shear * v, v) * radius;
            size_t at = (size_t)y * (size_t)width + (size_t)x;
            blend(&drawn, colour, d - line, edge, v, planes, plane, at);
            if (owner && d < 0)
                owner[at] = (uint8_t)index;
        }
}

static const uint8_t luma_table[64] = {16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,
                                       14, 13, 16, 24, 40,  57,  69,  56,  14, 17, 22, 29, 51,  87,  80,  62,
                                       18, 22, 37, 56, 68,  109, 103, 77,  24, 35, 55, 64, 81,  104, 113, 92,
                                       49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99};

/* Quantises one 8x8 block at (bx, by) of a plane; pixels past the edge repeat the last one. */
static void quantise_block(float *plane, int width, int height, int bx, int by, const float basis[8][8],
                           float scale)
{
    float rows[8][8], coefficients[8][8];
    for (int y = 0; y < 8; y++) {
        const float *row = plane + (size_t)(by + y < height ? by + y : height - 1) * (size_t)width;
        for (int u = 0; u < 8; u++) {
            float sum = 0;
            for (int x = 0; x < 8; x++)
                sum += basis[u][x] * (row[bx + x < width ? bx + x : width - 1] - 128);
            rows[y][u] = sum;
        }
    }
    for (int v = 0; v < 8; v++)
        for (int u = 0; u < 8; u++) {
            float sum = 0, step = (float)luma_table[v * 8 + u] * scale;
            for (int y = 0; y < 8; y++)
                sum += basis[v][y] * rows[y][u];
            coefficients[v][u] = rintf(sum / step) * step;
        }
    for (int y = 0; y < 8; y++)
        for (int u = 0; u < 8; u++) {
            float sum = 0;
            for (int v = 0; v < 8; v++)
                sum += basis[v][y] * coefficients[v][u];
            rows[y][u] = sum;
        }
    for (int y = 0; y < 8 && by + y < height; y++)
        for (int x = 0; x < 8 && bx + x < width; x++) {
            float sum = 128;
            for (int u = 0; u < 8; u++)
                sum += basis[u][x] * rows[y][u];
            plane[(size_t)(by + y) * (size_t)width + (size_t)(bx + x)] = sum;
        }
}

static void quantise_plane(float *plane, int width, int height, float scale)
{
    float basis[8][8];
    for (int u = 0; u < 8; u++)
        for (int x = 0; x < 8; x++)
            basis[u][x] = (u ? 0.5f : 0.35355339f) * cosf((float)(2 * x + 1) * (float)u * PI / 16);
    for (int y = 0; y < height; y += 8)
        for (int x = 0; x < width; x += 8)
            quantise_block(plane, width, height, x, y, basis, scale);
}

/* Means of 2x2 pixels, as 4:2:0 keeps them. */
static void halve_chroma(float *plane, int width, int height)
{
    for (int y = 0; y + 1 < height; y += 2)
        for (int x = 0; x + 1 < width; x += 2) {
            float *p = plane + (size_t)y * (size_t)width + (size_t)x;
            float mean = 0.25f * (p[0] + p[1] + p[width] + p[width + 1]);
            p[0] = p[1] = p[width] = p[width + 1] = mean;
        }
}

/* planes: [3, height, width], 0..255 */
static void add_artefacts(uint64_t *rng, float amount, int width, int height, float *planes)
{
    size_t plane = (size_t)width * (size_t)height;
    float *luma = planes, *blue = planes + plane, *red = planes + 2 * plane;
    float scale = random_between(rng, 0.15f, 1.4f) * amount;
    bool halve = random_unit(rng) < 0.4f;
    for (size_t i = 0; i < plane; i++) {
        float r = luma[i], g = blue[i], b = red[i];
        luma[i] = .299f * r + .587f * g + .114f * b;
        blue[i] = 128 - .1687f * r - .3313f * g + .5f * b;
        red[i] = 128 + .5f * r - .4187f * g - .0813f * b;
    }
    if (halve) {
        halve_chroma(blue, width, height);
        halve_chroma(red, width, height);
    }
    quantise_plane(luma, width, height, scale);
    quantise_plane(blue, width, height, scale * 1.3f);
    quantise_plane(red, width, height, scale * 1.3f);
    for (size_t i = 0; i < plane; i++) {
        float y = luma[i], cb = blue[i] - 128, cr = red[i] - 128;
        luma[i] = y + 1.402f * cr;
        blue[i] = y - .344f * cb - .714f * cr;
        red[i] = y + 1.772f * cb;
    }
}

/* planes: [3, height, width], 0..1 in, 0..255 out */
static void add_noise(uint64_t *rng, uint64_t texture_seed, float amount, int width, int height,
                      float *planes)
{
    size_t plane = (size_t)width * (size_t)height;
    uint64_t clip = texture_seed ^ 0x6E6F697365ULL; /* one camera has one noise level and nearly one gain */
    float gain = 1 + amount * (random_between(&clip, -0.1f, 0.1f) + random_between(rng, -0.02f, 0.02f));
    float level = amount * 0.055f * random_unit(&clip);
    for (size_t i = 0; i < plane; i++) {
        uint64_t bits = vl_random_u64(rng);
        for (int c = 0; c < 3; c++) {
            float e = (float)((bits >> (c * 16)) & 0xFFFF) * (2.0f / 65536.0f) - 1;
            planes[(size_t)c * plane + i] = (planes[(size_t)c * plane + i] * gain + e * level) * 255;
        }
    }
}

int vl_world_draw(const struct vl_world_scene *scene, int width, int height, size_t stride, uint8_t *ret_rgb,
                  uint8_t *ret_owner)
{
    size_t plane = (size_t)width * (size_t)height;
    uint64_t rng = scene->noise_seed;
    struct texture texture;
    float *planes;
    if (width < 8 || height < 8 || width > 8192 || height > 8192 || stride < 3 * (size_t)width ||
        scene->n_objects < 0 || scene->n_objects > VL_WORLD_MAX_OBJECTS)
        return -EINVAL;
    if (ret_owner)
        memset(ret_owner, 255, plane);
    if (scene->plain) {
        for (int y = 0; y < height; y++)
            memset(ret_rgb + (size_t)y * stride, 128, 3 * (size_t)width);
        return 0;
    }
    planes = malloc(3 * plane * sizeof(*planes));
    if (!planes)
        return -ENOMEM;
    random_texture(scene->texture_seed, &texture);
    draw_texture(&texture, width, height, planes);
    for (int i = 0; i < scene->n_objects; i++)
        draw_object(&scene->objects[i], i, width, height, planes, ret_owner);
    add_noise(&rng, scene->texture_seed, scene->noise, width, height, planes);
    if (scene->artefacts > 0 && random_unit(&rng) < 0.75f)
        add_artefacts(&rng, scene->artefacts, width, height, planes);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                ret_rgb[(size_t)y * stride + (size_t)x * 3 + (size_t)c] = (uint8_t)clamp(
                    planes[(size_t)c * plane + (size_t)y * (size_t)width + (size_t)x] + 0.5f, 0, 255);
    free(planes);
    return 0;
}
