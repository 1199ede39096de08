class FloatSink: pass
