"""The few loops that decide the speed: numba on arrays, and autograd over CSR."""
