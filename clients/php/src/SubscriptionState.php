<?php

declare(strict_types=1);

namespace Realizehit;

/**
 * The state of a subscription.
 */
enum SubscriptionState: string
{
    /** Asked for, and not in force: it was just made, or the connection is away. */
    case Subscribing = 'subscribing';
    /** In force: what is published now arrives. */
    case Subscribed = 'subscribed';
    /** Its end was asked for. */
    case Unsubscribing = 'unsubscribing';
    /** It has ended. */
    case Unsubscribed = 'unsubscribed';
}
