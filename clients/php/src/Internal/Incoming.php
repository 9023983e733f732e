<?php

declare(strict_types=1);

namespace Realizehit\Internal;

use Realizehit\Exception\RealizehitException;
use Realizehit\Message;
use Realizehit\Pattern;
use Realizehit\Subscription;

// Imported, because each message needs it, and PHP looks up a function of the namespace first otherwise.
use function substr;

/**
 * The text messages that came over the connection and were not handled yet, and the way of a payload to its subscriptions.
 *
 * Each message goes through `handle`. A payload of a plain pattern takes the short way there: one look-up by its label, and one
 * call for each subscription.
 *
 * @internal
 */
final class Incoming
{
    /** @var array<int|string, Topic> those in force, by id; `Topics` keeps them */
    public array $topics = [];
    /** @var array<int, Subscription> those whose queue may have dropped something, by object id */
    public array $full = [];

    /** @var list<string> */
    private array $texts = [];
    /** Index of the next text. It moves before the text is handled, because a callback may call `handle` again. */
    private int $next = 0;

    /**
     * @param \Closure(string): void $onObject called with each JSON object: a reply or an event.
     */
    public function __construct(private readonly \Closure $onObject)
    {
    }

    public function isEmpty(): bool
    {
        return $this->texts === [];
    }

    /**
     * Append messages.
     *
     * @param list<string> $texts
     */
    public function add(array $texts): void
    {
        $left = $this->next === 0 ? $this->texts : array_slice($this->texts, $this->next);
        $this->texts = $left === [] ? $texts : array_merge($left, $texts);
        $this->next = 0;
    }

    public function clear(): void
    {
        $this->texts = [];
        $this->next = 0;
    }

    /**
     * Hand the messages on, in order; return whether none is left.
     *
     * @param (\Closure(): bool)|null $isEnough whether a reader has what it waits for: then the messages that are left stay.
     */
    public function handle(?\Closure $isEnough): bool
    {
        while (isset($this->texts[$this->next])) {
            if ($isEnough !== null && $isEnough()) {
                return false;
            }
            $text = $this->texts[$this->next++];
            if (isset($text[8]) && $text[8] === '?') { // the usual label is an id alone
                $topic = $this->topics[substr($text, 0, 8)] ?? null;
                if ($topic !== null && !$topic->isWildcard) {
                    $message = new Message(substr($text, 9), $topic->channel);
                    foreach ($topic->members as $key => $member) {
                        if ($member->deliver($message)) {
                            $this->full[$key] = $member;
                        }
                    }
                    continue;
                }
            }
            if ($text !== '' && $text[0] === '{') {
                ($this->onObject)($text);
            } else {
                $this->deliver($text);
            }
        }
        $this->clear();
        return true;
    }

    /** Deliver a payload, `<id>?<JSON>` or `<id>@<key>=<value>&…?<JSON>`. What is not one is ignored. */
    private function deliver(string $text): void
    {
        $end = strpos($text, '?');
        if ($end === false) {
            return;
        }
        $id = substr($text, 0, $end);
        $fields = [];
        if (isset($id[8]) && ($at = strpos($id, '@')) !== false) {
            foreach (explode('&', substr($id, $at + 1)) as $field) {
                [$key, $value] = [...explode('=', $field, 2), ''];
                $fields[$key] = $value;
            }
            $id = substr($id, 0, $at);
        }
        $topic = $this->topics[$id] ?? null;
        if ($topic === null) {
            return;
        }
        $channel = $topic->channel;
        $filters = null;
        if ($topic->isWildcard) {
            $channel = $fields['c'] ?? '';
            try {
                $filters = Pattern::filtersOf($channel);
            } catch (RealizehitException) {
                return; // without its own channel, a message of a wildcard is malformed
            }
        }
        $position = $topic->hasPositions && isset($fields['o']) ? $topic->positionOf($fields['o']) : null;
        $message = new Message(substr($text, $end + 1), $channel, $position, $filters);
        foreach ($topic->members as $key => $member) {
            if ($member->deliver($message)) {
                $this->full[$key] = $member;
            }
        }
    }
}
