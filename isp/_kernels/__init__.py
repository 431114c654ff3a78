"""Private building blocks of `isp`: argument checks, fast stencils, and the inner parts of the larger algorithms."""
