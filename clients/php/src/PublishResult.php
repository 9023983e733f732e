<?php

declare(strict_types=1);

namespace Realizehit;

/**
 * What became of a publication.
 */
final class PublishResult
{
    /**
     * @param string $id the label of the pattern on the wire.
     * @param int $nodes how many subscribed servers the broker reached. 0 means that nobody is subscribed.
     * @param string|null $at the position in the history; null where the server keeps none.
     * @param bool|null $duplicate whether it had been published before by the same key; null if the server does not tell.
     */
    public function __construct(
        public readonly string $id,
        public readonly int $nodes,
        public readonly ?string $at = null,
        public readonly ?bool $duplicate = null,
    ) {
    }

    /**
     * Read an answer of the server; null if it is not one. Unknown keys are ignored.
     *
     * @internal
     */
    public static function read(mixed $answer): ?self
    {
        if (!is_array($answer) || !is_string($answer['id'] ?? null) || !is_int($answer['nodes'] ?? null)) {
            return null;
        }
        $at = $answer['at'] ?? null;
        $duplicate = $answer['duplicate'] ?? null;
        return new self(
            $answer['id'],
            $answer['nodes'],
            is_string($at) ? $at : null,
            is_bool($duplicate) ? $duplicate : null,
        );
    }
}
