<?php

declare(strict_types=1);

namespace Realizehit\Internal;

use Realizehit\Pattern;
use Realizehit\Subscription;

/**
 * A pattern that is subscribed to on the wire, and the client's subscriptions to it.
 *
 * @internal
 */
final class Topic
{
    /** The canonical text of the pattern. */
    public readonly string $channel;
    public readonly bool $isWildcard;
    /** @var array<int, Subscription> by object id */
    public array $members = [];
    /** The label of its payloads, once the server has confirmed it. */
    public string $id = '';
    /** Whether it is in force on the present connection. */
    public bool $isInForce = false;
    /** Whether a `sub` went out on the present connection. */
    public bool $isAsked = false;
    /** Whether it was ever in force. */
    public bool $wasInForce = false;
    /** When messages may have been missed from; null if they were not. */
    public ?float $awaySince = null;
    /** When to ask again; null if nothing waits for that. */
    public ?float $askAt = null;
    public int $attempts = 0;
    /** Whether positions are told, so that it can resume. */
    public bool $hasPositions;
    /** The position of the last message, or where the server went on; null if it is not known. */
    public ?string $position = null;

    /**
     * @param string|null $since where the first `sub` begins.
     * @param int|null $last how many messages the first `sub` asks for.
     * @param int|null $every milliseconds in which the server sends at most one message.
     */
    public function __construct(
        public readonly Pattern $pattern,
        public readonly ?string $since,
        public readonly ?int $last,
        bool $offsets,
        public readonly ?int $every,
    ) {
        $this->channel = $pattern->channel;
        $this->isWildcard = $pattern->isWildcard;
        $this->hasPositions = $offsets || $since !== null || $last !== null;
    }

    /**
     * Return the action that subscribes, without its id.
     *
     * @return array<string, mixed>
     */
    public function action(): array
    {
        $action = ['act' => 'sub', 'pat' => $this->pattern];
        if ($this->every !== null) {
            $action['every'] = $this->every;
        }
        if (!$this->hasPositions) {
            return $action;
        }
        $since = $this->position ?? $this->since;
        if ($since !== null) {
            return $action + ['since' => $since];
        }
        return $action + ($this->last !== null && !$this->wasInForce ? ['last' => $this->last] : ['offsets' => true]);
    }

    /** Return the position of an offset in the present epoch, and remember it. */
    public function positionOf(string $offset): ?string
    {
        if (str_contains($offset, '.')) {
            return $this->position = $offset;
        }
        if ($this->position === null || !ctype_digit($offset)) {
            return null;
        }
        return $this->position = strstr($this->position, '.', true) . ".$offset";
    }
}
