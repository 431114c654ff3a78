"""How the stages are made fast: stencils, strips, windows and iterations. Private."""
