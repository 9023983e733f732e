package io.github.realizehit.client;

/**
 * The answer was lost, so that it is not known whether the message was published.
 */
public final class PublishUnclearException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    PublishUnclearException(Details details) {
        super(details);
    }
}
