from r2l_jax.programs import start

if __name__ == "__main__":
    start("card")
