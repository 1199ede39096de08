/* What threads add to the model `first`: contexts in many threads at once, one context in two threads, a fork, threads
   that are ended, and a signal handler that runs the model. */

#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "first.h"

#define RUNS 300

static float x[2304], wanted_z[2304], wanted_y[2304];
static int64_t b[3] = {1, -2, 3};

static int run(void *context, int64_t *k)
{
    static _Thread_local float z[2304], y[2304];
    const sbnn_input inputs[] = {{x, sizeof x}, {b, sizeof b}};
    const sbnn_output outputs[] = {{z, sizeof z}, {y, sizeof y}, {k, sizeof b}};
    int code = first_run(context, inputs, outputs);
    if (code == SBNN_OK && (memcmp(z, wanted_z, sizeof z) != 0 || memcmp(y, wanted_y, sizeof y) != 0))
        return -1;
    return code;
}

static void *start(size_t threads)
{
    sbnn_options options = {threads};
    size_t bytes = first_context_bytes(&options);
    void *context = malloc(bytes);
    int code = first_init(context, bytes, &options);
    if (code != SBNN_OK) {
        printf("init: %d %s\n", code, first_last_error(context));
        exit(1);
    }
    return context;
}

static void *own_context(void *threads)
{
    void *context = start((size_t)threads);
    int64_t k[3];
    intptr_t failures = 0;
    int index;
    for (index = 0; index < RUNS; index++)
        failures += run(context, k) != SBNN_OK;
    first_close(context);
    free(context);
    return (void *)failures;
}

static void *shared_context(void *context)
{
    int64_t k[3];
    intptr_t failures = 0;
    int index;
    for (index = 0; index < RUNS; index++) {
        int code = run(context, k);
        failures += code != SBNN_OK && code != SBNN_ERROR_BUSY;
    }
    return (void *)failures;
}

static void *context_of_handler, *context_of_main;
static volatile sig_atomic_t handled, failed_in_handler;

static void handle(int number)
{
    int64_t k[3];
    float z[2304], y[2304];
    const sbnn_input inputs[] = {{x, sizeof x}, {b, sizeof b}};
    const sbnn_output outputs[] = {{z, sizeof z}, {y, sizeof y}, {k, sizeof b}};
    int code = first_run(context_of_main, inputs, outputs);
    (void)number;
    if (code != SBNN_OK && code != SBNN_ERROR_BUSY)
        failed_in_handler = 1;
    if (first_run(context_of_handler, inputs, outputs) != SBNN_OK || memcmp(y, wanted_y, sizeof y) != 0)
        failed_in_handler = 1;
    handled++;
}

static int count_threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    int count = -2; /* . and .. */
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static int join_all(pthread_t *threads, int count)
{
    int failures = 0, index;
    for (index = 0; index < count; index++) {
        void *result;
        pthread_join(threads[index], &result);
        failures += (int)(intptr_t)result;
    }
    return failures;
}

int main(int count, char **arguments)
{
    pthread_t threads[4];
    void *context;
    int64_t k[3];
    int failures = 0, index, before, status = 0;
    pid_t child;
    (void)arguments;
    for (index = 0; index < 2304; index++)
        x[index] = (float)((index * 37) % 101) / 10 - 5;
    {
        const sbnn_input inputs[] = {{x, sizeof x}, {b, sizeof b}};
        const sbnn_output outputs[] = {{wanted_z, sizeof x}, {wanted_y, sizeof x}, {k, sizeof b}};
        context = start(1);
        failures += first_run(context, inputs, outputs) != SBNN_OK;
        free(context);
    }

    for (index = 0; index < 4; index++)
        pthread_create(&threads[index], NULL, own_context, (void *)(size_t)(index + 1));
    failures += join_all(threads, 4);
    printf("contexts at once: %d\n", failures);

    before = count_threads();
    context = start(3);
    failures += count_threads() != before + 2;
    for (index = 0; index < 2; index++)
        pthread_create(&threads[index], NULL, shared_context, context);
    failures += join_all(threads, 2);
    printf("one context in two threads: %d\n", failures);

    usleep(20000); /* its threads sleep */
    failures += run(context, k) != SBNN_OK;
    if (count == 1) { /* not with a sanitizer of threads */
        child = fork();
        if (child == 0) {
            for (index = 0; index < 10; index++)
                failures += run(context, k) != SBNN_OK;
            first_close(context);
            _exit(failures != 0);
        }
        waitpid(child, &status, 0);
        failures += status != 0;
        printf("fork: %d\n", failures);
    }
    first_close(context);
    failures += count_threads() != before;
    free(context);

    if (count == 1) {
        context_of_handler = start(1);
        context_of_main = context = start(2);
        signal(SIGUSR1, handle);
        child = fork();
        if (child == 0) {
            for (index = 0; index < 200; index++) {
                kill(getppid(), SIGUSR1);
                usleep(200);
            }
            _exit(0);
        }
        for (index = 0; index < 100000 && waitpid(child, &status, WNOHANG) == 0; index++)
            failures += run(context, k) != SBNN_OK;
        failures += failed_in_handler || handled == 0;
        first_close(context);
        first_close(context_of_handler);
        free(context);
        free(context_of_handler);
        printf("signals: %d\n", failures);
    }
    return failures != 0;
}
