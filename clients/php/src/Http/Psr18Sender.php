<?php

declare(strict_types=1);

namespace Realizehit\Http;

use Psr\Http\Client\ClientExceptionInterface;
use Psr\Http\Client\ClientInterface;
use Psr\Http\Client\RequestExceptionInterface;
use Psr\Http\Message\RequestFactoryInterface;
use Psr\Http\Message\StreamFactoryInterface;

/**
 * Sends requests with a PSR-18 client. Its time-outs, TLS and proxies are those of that client. Set it so that it follows no
 * redirections and repeats no requests.
 */
final class Psr18Sender implements Sender
{
    public function __construct(
        private readonly ClientInterface $client,
        private readonly RequestFactoryInterface $requests,
        private readonly StreamFactoryInterface $streams,
    ) {
    }

    public function send(string $method, string $url, array $headers, string $body): Response
    {
        $request = $this->requests->createRequest($method, $url)->withBody($this->streams->createStream($body));
        foreach ($headers as $name => $value) {
            $request = $request->withHeader($name, $value);
        }
        try {
            $response = $this->client->sendRequest($request);
            $retryAfter = $response->getHeaderLine('Retry-After');
            $body = (string) $response->getBody();
            return new Response($response->getStatusCode(), $retryAfter === '' ? null : $retryAfter, $body);
        } catch (RequestExceptionInterface $error) {
            throw new SendFailed($error->getMessage(), false, false, $error);
        } catch (ClientExceptionInterface | \RuntimeException $error) {
            // PSR-18 does not tell whether the request was sent.
            throw new SendFailed($error->getMessage(), true, true, $error);
        }
    }
}
