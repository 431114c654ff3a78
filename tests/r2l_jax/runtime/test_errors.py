import logging

from r2l_jax.runtime.errors import errors_only


def test_only_errors_are_logged_and_the_level_comes_back(caplog):
    logger = logging.getLogger("library")
    logger.setLevel(logging.INFO)
    with errors_only("library"):
        logger.warning("meant so")
        logger.error("not meant so")
    logger.info("later")
    assert caplog.messages == ["not meant so", "later"]
