package org.example.sbnn;

import java.nio.ByteBuffer;

/** A compiled model. One thread at a time may use it. */
public final class Model implements AutoCloseable {
    static {
        System.loadLibrary("sbnn_example"); // which needs libmodel.so; both are in the APK
    }

    private long handle;

    public Model(int threads) {
        handle = create(threads);
    }

    /** Compute the output. Both are direct buffers (ByteBuffer.allocateDirect) in native byte order. */
    public void run(ByteBuffer input, ByteBuffer output) {
        if (handle == 0) {
            throw new IllegalStateException("the model is closed");
        }
        run(handle, input, output);
    }

    @Override
    public void close() {
        destroy(handle);
        handle = 0;
    }

    private static native long create(int threads);

    private static native void run(long handle, ByteBuffer input, ByteBuffer output);

    private static native void destroy(long handle);
}
