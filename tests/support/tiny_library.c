/* The tiny model of tests/support/tiny_model.py as a standalone library: what it computes and how it is called. Its
   rows are shared by the threads of a context, as those of a parallel loop are. */
#include <math.h>
#include <pthread.h>
#include <stddef.h>

#define ROWS 4
#define COLUMNS 37
#define BYTES (ROWS * COLUMNS * sizeof(float))
#define MOST 64
#define VISIBLE __attribute__((visibility("default")))

typedef struct { const void *data; size_t bytes; } sbnn_input;
typedef struct { void *data; size_t bytes; } sbnn_output;
typedef struct { size_t threads; } sbnn_options;

struct context {
    size_t threads;
    pthread_t handles[MOST];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned long round;
    size_t begun, working;
    int closing;
    const sbnn_input *inputs;
    const sbnn_output *outputs;
};

static void rows_of(struct context *self, size_t thread)
{
    const float *x = self->inputs[0].data, *y = self->inputs[1].data;
    float *total = self->outputs[0].data, *copy = self->outputs[1].data;
    for (size_t row = thread; row < ROWS; row += self->threads)
        for (size_t at = row * COLUMNS; at < (row + 1) * COLUMNS; at++) {
            total[at] = expf(x[at]) + y[at];
            copy[at] = y[at];
        }
}

static void *work(void *argument)
{
    struct context *self = argument;
    unsigned long seen = 0;
    pthread_mutex_lock(&self->lock);
    size_t thread = ++self->begun;
    for (;;) {
        while (self->round == seen && !self->closing)
            pthread_cond_wait(&self->changed, &self->lock);
        if (self->closing)
            break;
        seen = self->round;
        pthread_mutex_unlock(&self->lock);
        rows_of(self, thread);
        pthread_mutex_lock(&self->lock);
        if (--self->working == 0)
            pthread_cond_broadcast(&self->changed);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

VISIBLE size_t tiny_context_bytes(const sbnn_options *options)
{
    (void)options;
    return sizeof(struct context);
}

VISIBLE void tiny_close(void *context)
{
    struct context *self = context;
    pthread_mutex_lock(&self->lock);
    self->closing = 1;
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    for (size_t thread = 1; thread < self->threads; thread++)
        pthread_join(self->handles[thread], NULL);
}

VISIBLE int tiny_init(void *context, size_t bytes, const sbnn_options *options)
{
    struct context *self = context;
    size_t threads = options == NULL || options->threads == 0 ? 1 : options->threads;
    if (bytes < sizeof *self)
        return 2;
    *self = (struct context){.threads = 1};
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->changed, NULL);
    while (self->threads < threads && self->threads < MOST) {
        if (pthread_create(&self->handles[self->threads], NULL, work, self) != 0) {
            tiny_close(self);
            return 7;
        }
        self->threads++;
    }
    return 0;
}

VISIBLE int tiny_run(void *context, const sbnn_input *inputs, const sbnn_output *outputs)
{
    struct context *self = context;
    for (int index = 0; index < 2; index++)
        if (inputs[index].bytes != BYTES || outputs[index].bytes != BYTES)
            return 4;
    self->inputs = inputs;
    self->outputs = outputs;
    pthread_mutex_lock(&self->lock);
    self->working = self->threads - 1;
    self->round++;
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    rows_of(self, 0);
    pthread_mutex_lock(&self->lock);
    while (self->working > 0)
        pthread_cond_wait(&self->changed, &self->lock);
    pthread_mutex_unlock(&self->lock);
    return 0;
}
