<?php

declare(strict_types=1);

namespace Realizehit;

use Realizehit\Exception\PayloadException;

/**
 * A message that was published to a pattern.
 */
final class Message
{
    /**
     * @param string $text the payload, as the JSON text that was published.
     * @param string $channel the canonical text of the pattern that it was published to.
     * @param string|null $position where it stands in the history, `<epoch>.<offset>`; null if the server does not tell.
     * @param array<int|string, string>|null $pattern the filters of the channel, if they are known already.
     * @internal
     */
    public function __construct(
        public readonly string $text,
        public readonly string $channel,
        public readonly ?string $position = null,
        private ?array $pattern = null,
    ) {
    }

    /**
     * Decode the payload.
     *
     * @param bool $objects whether JSON objects become objects, as `json_decode` makes them, and not arrays.
     * @throws PayloadException it is not JSON, or nested too deeply.
     */
    public function payload(bool $objects = false): mixed
    {
        try {
            return json_decode($this->text, !$objects, 512, JSON_THROW_ON_ERROR);
        } catch (\JsonException $error) {
            throw new PayloadException("the payload is not JSON: {$error->getMessage()}", 'bad-json', null, $error);
        }
    }

    /**
     * Return the pattern that it was published to, also for a subscription with wildcards. All values are texts.
     *
     * @return array<int|string, string>
     */
    public function pattern(): array
    {
        return $this->pattern ??= Pattern::filtersOf($this->channel);
    }
}
