package io.github.realizehit.client;

import java.util.Locale;

/** Where a subscription stands. */
public enum SubscriptionState {
    /** It is asked for; also while the connection is away. */
    SUBSCRIBING,
    /** It is in force: nothing that is published from here on is missed while the connection holds. */
    SUBSCRIBED,
    /** It is being ended. */
    UNSUBSCRIBING,
    /** It has ended for good. */
    UNSUBSCRIBED;

    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
