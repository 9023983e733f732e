<?php

declare(strict_types=1);

namespace Realizehit\Http;

/**
 * Sends HTTP requests. It follows no redirection and repeats nothing.
 */
interface Sender
{
    /**
     * @param array<string, string> $headers
     * @throws SendFailed there is no complete response.
     */
    public function send(string $method, string $url, array $headers, string $body): Response;
}
