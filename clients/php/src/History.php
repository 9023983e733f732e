<?php

declare(strict_types=1);

namespace Realizehit;

/**
 * A part of the messages that the server keeps for a pattern.
 *
 * @implements \IteratorAggregate<int, StoredMessage>
 */
final class History implements \IteratorAggregate, \Countable
{
    /**
     * @param string $id the label of the pattern on the wire.
     * @param string|null $at the position of the last message that the server has.
     * @param int|null $first the offset of the oldest message that the server keeps.
     * @param bool|null $recovered with `since`: whether nothing after the position is missing; else null.
     * @param bool $more whether there are further messages; ask again with the position of the last one.
     * @param list<StoredMessage> $messages the oldest first.
     */
    public function __construct(
        public readonly string $id,
        public readonly ?string $at,
        public readonly ?int $first,
        public readonly ?bool $recovered,
        public readonly bool $more,
        public readonly array $messages,
    ) {
    }

    /** @return \Iterator<int, StoredMessage> */
    public function getIterator(): \Iterator
    {
        return new \ArrayIterator($this->messages);
    }

    public function count(): int
    {
        return count($this->messages);
    }

    /**
     * Read an answer of the server; null if it is not one. Unknown keys are ignored.
     *
     * @internal
     * @param array<int|string, mixed> $answer
     */
    public static function read(array $answer): ?self
    {
        $messages = $answer['messages'] ?? null;
        if (!is_string($answer['id'] ?? null) || !is_array($messages)) {
            return null;
        }
        $at = $answer['at'] ?? null;
        $first = $answer['first'] ?? null;
        $recovered = $answer['recovered'] ?? null;
        return new self(
            $answer['id'],
            is_string($at) ? $at : null,
            is_int($first) ? $first : null,
            is_bool($recovered) ? $recovered : null,
            ($answer['more'] ?? false) === true,
            array_map(StoredMessage::read(...), array_values(array_filter($messages, is_array(...)))),
        );
    }
}
