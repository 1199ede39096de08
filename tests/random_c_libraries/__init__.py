"""Random networks as C libraries, built with sanitizers and compared with TVM's runtime, bit for bit."""
