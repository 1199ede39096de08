/* A frame loop: every model classifies every frame of a file.

       frames FILE [float32 | uint8,SCALE,OFFSET] [THREADS]

   It prints the class and the time of each frame for each model. THREADS share the work of a layer. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frame_file.h"
#include "models.h"

/* A model that is ready to run. */
struct runner {
    const struct model *model;
    void *context;
    sbnn_output output;
    size_t classes;
};

static double now(void)
{
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Makes the context of a model whose input are `pixels` floats. Returns 0, or prints why not. */
static int start(struct runner *runner, const struct model *model, size_t pixels, const sbnn_options *options)
{
    size_t inputs, outputs, bytes = model->context_bytes(options);
    const sbnn_tensor *input = model->inputs(&inputs), *output = model->outputs(&outputs);
    if (inputs != 1 || outputs != 1 || input->type != SBNN_FLOAT32 || output->type != SBNN_FLOAT32) {
        fprintf(stderr, "%s: this program is for one input and one output of float32\n", model->name);
        return -1;
    }
    if (input->bytes != pixels * sizeof(float)) {
        fprintf(stderr, "%s takes another number of pixels than %s\n", model->name, models[0].name);
        return -1;
    }
    runner->model = model;
    runner->classes = output->bytes / sizeof(float);
    runner->output.bytes = output->bytes;
    runner->output.data = malloc(output->bytes);
    runner->context = malloc(bytes);
    if (bytes == 0 || runner->context == NULL || runner->output.data == NULL) {
        fprintf(stderr, "%s: %s\n", model->name, bytes == 0 ? "that many threads are not allowed" : "no memory");
        return -1;
    }
    if (model->init(runner->context, bytes, options) != SBNN_OK) {
        fprintf(stderr, "%s: %s\n", model->name, model->last_error(runner->context));
        return -1;
    }
    return 0;
}

static size_t best_class(const struct runner *runner)
{
    const float *scores = runner->output.data;
    size_t best = 0, index;
    for (index = 1; index < runner->classes; index++)
        if (scores[index] > scores[best])
            best = index;
    return best;
}

int main(int argc, char **argv)
{
    struct runner runners[MODEL_COUNT];
    struct frame_file frames;
    sbnn_options options = {0};
    size_t pixels = models[0].inputs(NULL)->bytes / sizeof(float), index;
    float *frame = malloc(pixels * sizeof *frame);
    long number;
    int found;

    if (argc < 2 || frame == NULL) {
        fprintf(stderr, "usage: frames FILE [float32 | uint8,SCALE,OFFSET] [THREADS]\n");
        return 2;
    }
    options.threads = argc > 3 ? strtoul(argv[3], NULL, 10) : 1;
    for (index = 0; index < MODEL_COUNT; index++)
        if (start(&runners[index], &models[index], pixels, &options) != 0)
            return 1;
    if (frame_file_open(&frames, argv[1], argc > 2 ? argv[2] : "float32", pixels) != 0)
        return 1;

    for (number = 0; (found = frame_file_next(&frames, frame)) > 0; number++) {
        sbnn_input input = {frame, pixels * sizeof *frame};
        printf("frame %ld:", number);
        for (index = 0; index < MODEL_COUNT; index++) {
            struct runner *runner = &runners[index];
            double begin = now();
            if (runner->model->run(runner->context, &input, &runner->output) != SBNN_OK) {
                fprintf(stderr, "%s: %s\n", runner->model->name, runner->model->last_error(runner->context));
                return 1;
            }
            printf("  %s %zu (%.1f us)", runner->model->name, best_class(runner), (now() - begin) * 1e6);
        }
        printf("\n");
    }

    for (index = 0; index < MODEL_COUNT; index++) {
        runners[index].model->close(runners[index].context);
        free(runners[index].context);
        free(runners[index].output.data);
    }
    frame_file_close(&frames);
    free(frame);
    return found < 0;
}
