/* The tiny model of tests/support/tiny_model.py as it stands in a C library: two kernels by hand, on the fixed runtime.
   The first one has a parallel loop. The functions of the library follow (model.c.in). */
#define _POSIX_C_SOURCE 200809L
#include "sbnn.h"
#include "sbnn_runtime.h"

#include <math.h>

#define ROWS 4
#define COLUMNS 37
#define BYTES (ROWS * COLUMNS * sizeof(float))

struct arguments {
    const float *x, *y;
    float *total;
};

static int add_rows(int task, sbnn_parallel_group *group, void *data)
{
    const struct arguments *self = data;
    for (int row = task; row < ROWS; row += group->num_task)
        for (int at = row * COLUMNS; at < (row + 1) * COLUMNS; at++)
            self->total[at] = expf(self->x[at]) + self->y[at];
    return 0;
}

static int prepare(const struct sbnn_frame *frame)
{
    (void)frame;
    return SBNN_OK;
}

static int run(const struct sbnn_frame *frame)
{
    unsigned char *arena = frame->arena;
    struct arguments arguments = {
        sbnn_input_at(frame, 0, arena),
        sbnn_input_at(frame, 1, arena + sbnn_aligned(BYTES)),
        sbnn_output_at(frame, 0, arena + 2 * sbnn_aligned(BYTES)),
    };
    if (sbnn_parallel_launch(add_rows, &arguments, 0) != 0)
        return SBNN_ERROR_KERNEL;
    sbnn_return(frame, 0, arguments.total);
    sbnn_return(frame, 1, arguments.y);
    return SBNN_OK;
}

static const int64_t shape[] = {ROWS, COLUMNS};
static const sbnn_tensor inputs[] = {{"x", SBNN_FLOAT32, 2, shape, BYTES}, {"y", SBNN_FLOAT32, 2, shape, BYTES}};
static const sbnn_tensor outputs[] = {{"total", SBNN_FLOAT32, 2, shape, BYTES}, {"copy", SBNN_FLOAT32, 2, shape, BYTES}};
static const struct sbnn_build builds[] = {
    {.name = "any", .arena_bytes = 4 * 640, .parallel = 1, .prepare = prepare, .run = run},
};
static const struct sbnn_model sbnn_this_model = {"tiny (test)", inputs, 2, outputs, 2, builds, 1};
