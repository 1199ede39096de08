/* Threads of the program, each with a context of its own, share the frames of a file.

       workers FILE [float32 | uint8,SCALE,OFFSET] [WORKERS]

   It prints how many frames the first model put into each class, and the frames per second. Contexts are independent,
   so no lock is needed to run; the machine code and the constants of the model are shared. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frame_file.h"
#include "models.h"

#define MOST_CLASSES 1000
#define MOST_WORKERS 64

static const struct model *const model = &models[0];
static float *frames;
static size_t frame_count, pixels;
static atomic_size_t next_frame;
static atomic_size_t found[MOST_CLASSES];
static atomic_int failed;

static void *work(void *unused)
{
    const sbnn_tensor *tensor = model->outputs(NULL);
    size_t bytes = model->context_bytes(NULL), classes = tensor->bytes / sizeof(float), number, index;
    void *context = malloc(bytes);
    float *scores = malloc(tensor->bytes);
    if (context == NULL || scores == NULL || model->init(context, bytes, NULL) != SBNN_OK) {
        fprintf(stderr, "%s cannot start\n", model->name);
        failed = 1;
        return unused;
    }
    while ((number = atomic_fetch_add(&next_frame, 1)) < frame_count) {
        sbnn_input input = {frames + number * pixels, pixels * sizeof *frames};
        sbnn_output output = {scores, tensor->bytes};
        size_t best = 0;
        if (model->run(context, &input, &output) != SBNN_OK) {
            fprintf(stderr, "%s: %s\n", model->name, model->last_error(context));
            failed = 1;
            break;
        }
        for (index = 1; index < classes; index++)
            if (scores[index] > scores[best])
                best = index;
        atomic_fetch_add(&found[best], 1);
    }
    model->close(context);
    free(context);
    free(scores);
    return unused;
}

/* Reads all frames; returns 0, or prints why not. */
static int read_frames(const char *path, const char *type)
{
    struct frame_file file;
    size_t room = 0;
    int status;
    if (frame_file_open(&file, path, type, pixels) != 0)
        return -1;
    do {
        if (frame_count == room) {
            room = 2 * room + 64;
            frames = realloc(frames, room * pixels * sizeof *frames);
            if (frames == NULL) {
                perror(path);
                return -1;
            }
        }
        status = frame_file_next(&file, frames + frame_count * pixels);
        frame_count += status > 0;
    } while (status > 0);
    frame_file_close(&file);
    return status;
}

int main(int argc, char **argv)
{
    unsigned long workers = argc > 3 ? strtoul(argv[3], NULL, 10) : 2, index;
    const sbnn_tensor *input = model->inputs(NULL), *output = model->outputs(NULL);
    pthread_t threads[MOST_WORKERS];
    struct timespec begin, end;
    double seconds;

    if (argc < 2 || workers < 1 || workers > MOST_WORKERS) {
        fprintf(stderr, "usage: workers FILE [float32 | uint8,SCALE,OFFSET] [WORKERS], at most %d workers\n", MOST_WORKERS);
        return 2;
    }
    if (input->type != SBNN_FLOAT32 || output->type != SBNN_FLOAT32 || output->bytes > MOST_CLASSES * sizeof(float)) {
        fprintf(stderr, "this program is for an input of float32, and at most %d scores of float32\n", MOST_CLASSES);
        return 1;
    }
    pixels = input->bytes / sizeof(float);
    if (read_frames(argv[1], argc > 2 ? argv[2] : "float32") != 0)
        return 1;

    timespec_get(&begin, TIME_UTC);
    for (index = 0; index < workers; index++)
        if (pthread_create(&threads[index], NULL, work, NULL) != 0) {
            fprintf(stderr, "the system refuses %lu threads\n", workers);
            return 1;
        }
    for (index = 0; index < workers; index++)
        pthread_join(threads[index], NULL);
    timespec_get(&end, TIME_UTC);

    for (index = 0; index < output->bytes / sizeof(float); index++)
        if (found[index] > 0)
            printf("class %lu: %zu\n", index, (size_t)found[index]);
    seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    printf("%zu frames, %lu workers, %.0f frames per second\n", frame_count, workers, (double)frame_count / seconds);
    free(frames);
    return failed;
}
