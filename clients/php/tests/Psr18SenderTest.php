<?php

declare(strict_types=1);

namespace Realizehit\Tests;

use GuzzleHttp\Psr7\HttpFactory;
use GuzzleHttp\Psr7\Response;
use PHPUnit\Framework\TestCase;
use Psr\Http\Client\ClientInterface;
use Psr\Http\Client\NetworkExceptionInterface;
use Psr\Http\Message\RequestInterface;
use Psr\Http\Message\ResponseInterface;
use Realizehit\ApiClient;
use Realizehit\Exception\PublishUnclearException;
use Realizehit\Http\Psr18Sender;

final class Psr18SenderTest extends TestCase
{
    protected function setUp(): void
    {
        if (!interface_exists(ClientInterface::class) || !class_exists(HttpFactory::class)) {
            self::markTestSkipped('psr/http-client and guzzlehttp/psr7 are not installed');
        }
    }

    private static function client(\Closure $answer): ApiClient
    {
        $client = new class ($answer) implements ClientInterface {
            public function __construct(private readonly \Closure $answer)
            {
            }

            public function sendRequest(RequestInterface $request): ResponseInterface
            {
                return ($this->answer)($request);
            }
        };
        $factory = new HttpFactory();
        return new ApiClient('http://host/', key: 'k', backoffBase: 0.01, sender: new Psr18Sender($client, $factory, $factory));
    }

    public function testPublishesAndRetries(): void
    {
        $requests = [];
        $api = self::client(static function (RequestInterface $request) use (&$requests): ResponseInterface {
            $requests[] = $request;
            return count($requests) === 1
                ? new Response(503, ['Retry-After' => '0'], '{"code": "unavailable"}')
                : new Response(200, [], '{"id": "bc86961b", "nodes": 3}');
        });
        self::assertSame(3, $api->publish(['kind' => 'news'], 1)->nodes);
        self::assertCount(2, $requests);
        self::assertSame('{"pattern":{"kind":"news"},"payload":1}', (string) $requests[1]->getBody());
        self::assertSame('Bearer k', $requests[1]->getHeaderLine('Authorization'));
        self::assertSame('http://host/', (string) $requests[1]->getUri());
    }

    public function testLostConnectionIsUnclear(): void
    {
        $count = 0;
        $api = self::client(static function (RequestInterface $request) use (&$count): ResponseInterface {
            $count++;
            throw new class ($request) extends \RuntimeException implements NetworkExceptionInterface {
                public function __construct(private readonly RequestInterface $request)
                {
                    parent::__construct('lost');
                }

                public function getRequest(): RequestInterface
                {
                    return $this->request;
                }
            };
        });
        try {
            $api->publish(['kind' => 'news'], 1);
            self::fail('it is not known whether it was published');
        } catch (PublishUnclearException) {
            self::assertSame(3, $count);
        }
    }
}
