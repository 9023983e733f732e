<?php

declare(strict_types=1);

namespace Realizehit\Tests\Support;

/**
 * An HTTP server with scripted answers.
 */
final class HttpServer extends TestServer
{
    public const QUEUED = '{"status": "queued", "id": "bc86961b", "nodes": 1}';

    /** The requests that came: head and body. @var list<array{string, string}> */
    public array $requests = [];
    /** Answers for the next requests, in place of QUEUED: a whole response, or null to cut the connection. */
    public array $answers = [];

    /** Return a whole response. */
    public static function response(int $status, string $body, string $headers = ''): string
    {
        return "HTTP/1.1 $status Text\r\n{$headers}Content-Length: " . strlen($body) . "\r\n\r\n$body";
    }

    protected function read(): void
    {
        $end = strpos($this->input, "\r\n\r\n");
        if ($end === false) {
            return;
        }
        if (preg_match('/^content-length: *(\d+)/mi', $this->input, $match) !== 1) {
            if (!str_starts_with($this->input, 'GET ')) {
                return;
            }
            $match = ['', '0'];
        }
        if (strlen($this->input) < $end + 4 + (int) $match[1]) {
            return;
        }
        $this->requests[] = [substr($this->input, 0, $end), substr($this->input, $end + 4, (int) $match[1])];
        $this->input = substr($this->input, $end + 4 + (int) $match[1]);
        $answer = $this->answers === [] ? self::response(200, self::QUEUED) : array_shift($this->answers);
        if ($answer === null) {
            $this->cut();
        } else {
            $this->raw($answer);
        }
    }
}
