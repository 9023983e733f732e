<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

/**
 * The status line and the headers of an HTTP response.
 *
 * @internal
 */
final class ResponseHead
{
    /** The status; null if the text is not the head of an HTTP response. */
    public readonly ?int $status;
    /** @var array<string, string> by names in lower case; values of one name are joined with commas. */
    public readonly array $headers;

    public function __construct(string $text)
    {
        $lines = explode("\r\n", $text);
        $isHttp = preg_match('#^HTTP/1\.[01] ([1-5]\d\d)(?: .*)?$#D', array_shift($lines), $match);
        $this->status = $isHttp ? (int) $match[1] : null;
        $headers = [];
        foreach ($lines as $line) {
            [$name, $value] = [...explode(':', $line, 2), ''];
            $name = strtolower($name);
            $headers[$name] = isset($headers[$name]) ? $headers[$name] . ',' . trim($value) : trim($value);
        }
        $this->headers = $headers;
    }
}
