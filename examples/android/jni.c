/* The native methods of Model.java. */

#include <jni.h>
#include <stdint.h>

#include "runner.h"

static void throw_error(JNIEnv *env, const char *message)
{
    jclass class = (*env)->FindClass(env, "java/lang/IllegalStateException");
    if (class != NULL)
        (*env)->ThrowNew(env, class, message);
}

JNIEXPORT jlong JNICALL Java_org_example_sbnn_Model_create(JNIEnv *env, jclass class, jint threads)
{
    runner *made = runner_new((size_t)threads);
    (void)class;
    if (made == NULL)
        throw_error(env, "the model cannot be initialised");
    return (jlong)(intptr_t)made;
}

/* Both are direct buffers in native byte order. */
JNIEXPORT void JNICALL Java_org_example_sbnn_Model_run(JNIEnv *env, jclass class, jlong handle, jobject input,
                                                       jobject output)
{
    const void *from = (*env)->GetDirectBufferAddress(env, input);
    void *to = (*env)->GetDirectBufferAddress(env, output);
    const char *error;
    (void)class;
    if (from == NULL || to == NULL || (*env)->GetDirectBufferCapacity(env, input) != (jlong)runner_input_bytes() ||
        (*env)->GetDirectBufferCapacity(env, output) != (jlong)runner_output_bytes()) {
        throw_error(env, "input and output are direct ByteBuffers with as many bytes as the model's tensors");
        return;
    }
    error = runner_run((runner *)(intptr_t)handle, from, to);
    if (error != NULL)
        throw_error(env, error);
}

JNIEXPORT void JNICALL Java_org_example_sbnn_Model_destroy(JNIEnv *env, jclass class, jlong handle)
{
    (void)env, (void)class;
    runner_free((runner *)(intptr_t)handle);
}
