<?php

declare(strict_types=1);

namespace Realizehit\Conformance;

use Realizehit\ApiClient;
use Realizehit\Exception\PayloadException;
use Realizehit\Exception\RealizehitException;
use Realizehit\Gap;
use Realizehit\Message;
use Realizehit\Pattern;
use Realizehit\PublishResult;
use Realizehit\RawJson;
use Realizehit\StoredMessage;
use Realizehit\Subscription;
use Realizehit\SubscriptionState;
use Realizehit\WebSocketClient;

/**
 * The commands of the driver protocol (clients/conformance/README.md), and nothing more.
 */
final class Commands
{
    private const OPTIONS = [
        'token' => 'token',
        'backoff_base' => 'backoffBase',
        'backoff_cap' => 'backoffCap',
        'heartbeat' => 'heartbeat',
        'queue' => 'queue',
        'open_timeout' => 'openTimeout',
        'response_timeout' => 'responseTimeout',
        'max_message' => 'maxMessage',
    ];

    /** @var array<string, WebSocketClient> */
    private array $clients = [];
    /** @var array<string, Subscription> */
    private array $subs = [];
    /** @var array<string, bool> whether to decode, by the name of the subscription */
    private array $decoding = [];
    /** @var array<string, ApiClient> */
    private array $apis = [];

    public function __construct(private readonly Scheduler $scheduler, private readonly FiberWaiter $waiter)
    {
    }

    /** Write one event. */
    public static function write(string $on, mixed ...$keys): void
    {
        $event = array_filter(['on' => $on] + $keys, static fn (mixed $value): bool => $value !== null);
        fwrite(STDOUT, json_encode($event, JSON_THROW_ON_ERROR | JSON_PRESERVE_ZERO_FRACTION) . "\n");
    }

    /** Carry out a command and answer it. */
    public function run(\stdClass $command): void
    {
        try {
            $method = 'do' . str_replace('_', '', ucwords($command->do, '_'));
            if (!method_exists($this, $method)) {
                throw new RealizehitException("there is no command $command->do", 'unsupported');
            }
            $answer = $this->$method($command) ?? [];
            self::write('done', ...['n' => $command->n] + $answer);
        } catch (\Throwable $error) {
            self::write('failed', n: $command->n, error: self::errorOf($error));
        }
    }

    /** @return array<string, mixed> */
    private static function errorOf(\Throwable $error): array
    {
        $isOwn = $error instanceof RealizehitException;
        return [
            'name' => (new \ReflectionClass($error))->getShortName(),
            'code' => $isOwn ? $error->errorCode : '',
            'text' => $error->getMessage(),
        ] + ($isOwn && $error->status !== null ? ['status' => $error->status] : []);
    }

    private function doOpen(\stdClass $command): void
    {
        $name = $command->client;
        $given = (array) ($command->options ?? []);
        $options = [];
        foreach (array_intersect_key(self::OPTIONS, $given) as $key => $option) {
            $options[$option] = $given[$key];
        }
        if (isset($given['tokens'])) {
            $tokens = $given['tokens'];
            $options['token'] = static function () use (&$tokens, $name): string {
                self::write('token_asked', client: $name);
                $token = count($tokens) > 1 ? array_shift($tokens) : $tokens[0];
                return $token ?? throw new \RuntimeException('the case gives no token');
            };
        }
        $client = $this->clients[$name] = new WebSocketClient($command->url, ...$options, proxy: '', waiter: $this->waiter);
        $client->on('connected', static fn () => self::write('connected', client: $name));
        $client->on('disconnected', static fn ($error) => self::write('disconnected', client: $name, code: $error->status));
        $client->on('expiring', static fn ($seconds) => self::write('expiring', client: $name, seconds: $seconds));
        $client->on('note', static fn ($note) => self::write('note', client: $name, note: $note));
        foreach (['error', 'ended'] as $event) {
            $client->on($event, static fn ($error) => self::write($event, client: $name, error: self::errorOf($error)));
        }
        $client->connect();
        $this->scheduler->go(static function () use ($client): void {
            while (!$client->isClosed()) {
                $client->poll(60.0);
            }
        });
    }

    /** @return array<string, mixed> */
    private function doSubscribe(\stdClass $command): array
    {
        $name = $command->sub;
        $read = $command->read ?? 'callback';
        $decode = $this->decoding[$name] = $command->decode ?? false;
        $on = [
            'gap' => static fn (Gap $gap) => self::write(
                'gap',
                sub: $name,
                seconds: $gap->seconds,
                dropped: $gap->dropped ?: null,
            ),
            'recovered' => static fn () => self::write('recovered', sub: $name),
            'error' => static fn ($error) => self::write('error', sub: $name, error: self::errorOf($error)),
        ];
        foreach (SubscriptionState::cases() as $state) {
            $on[$state->value] = static fn () => self::write('state', sub: $name, state: $state->value);
        }
        $tell = static function (Message $message) use ($name, $decode, $read): void {
            self::tell($name, $message, $decode);
            if ($read === 'raise') {
                throw new \RuntimeException('a callback that fails, as the case says');
            }
        };
        $subscription = $this->clients[$command->client]->subscribe(
            $command->pattern,
            $read === 'iterate' ? null : $tell,
            $on,
            $command->since ?? null,
            $command->last ?? null,
            $command->offsets ?? false,
            $command->every ?? null,
        );
        $this->subs[$name] = $subscription;
        return ['id' => $subscription->id()];
    }

    private static function tell(string $name, Message $message, bool $decode): void
    {
        $value = [];
        if ($decode) {
            try {
                $value = ['value' => $message->payload(objects: true)];
            } catch (PayloadException $error) {
                self::write('error', sub: $name, error: self::errorOf($error));
                return;
            }
        }
        self::write('payload', ...$value + [
            'sub' => $name,
            'text' => $message->text,
            'pattern' => (object) $message->pattern(),
            'position' => $message->position,
        ]);
    }

    /** @return array<string, mixed> */
    private function doNext(\stdClass $command): array
    {
        $subscription = $this->subs[$command->sub];
        $count = 0;
        while ($count < ($command->count ?? 1)) {
            $message = $subscription->next((float) ($command->timeout ?? 5.0));
            if ($message === null) {
                break;
            }
            self::tell($command->sub, $message, $command->decode ?? $this->decoding[$command->sub]);
            $count++;
        }
        $ended = in_array($subscription->state(), [SubscriptionState::Unsubscribing, SubscriptionState::Unsubscribed], true);
        return ['count' => $count, 'ended' => $ended];
    }

    private function doUnsubscribe(\stdClass $command): void
    {
        $this->subs[$command->sub]->unsubscribe();
    }

    /** @return array<string, mixed> */
    private function doStats(\stdClass $command): array
    {
        $subscription = $this->subs[$command->sub];
        return ['state' => $subscription->state()->value, 'dropped' => $subscription->dropped()];
    }

    private function doClose(\stdClass $command): void
    {
        $this->clients[$command->client]->close();
    }

    private function doApi(\stdClass $command): void
    {
        $given = $command->options ?? new \stdClass();
        $options = isset($given->backoff_base) ? ['backoffBase' => $given->backoff_base] : [];
        $options += isset($given->timeout) ? ['timeout' => $given->timeout] : [];
        $this->apis[$command->api] = new ApiClient($command->url, $given->key ?? null, ...$options, waiter: $this->waiter);
    }

    /** @return array<string, mixed> */
    private function doPublish(\stdClass $command): array
    {
        $api = $this->apis[$command->api];
        return self::outcomeOf($api->publish($command->pattern, self::payloadOf($command), $command->key ?? null));
    }

    /** @return array<string, mixed> */
    private function doPublishMany(\stdClass $command): array
    {
        $messages = array_map(static fn (\stdClass $message): array => [
            'pattern' => $message->pattern,
            'payload' => self::payloadOf($message),
            'key' => $message->key ?? null,
        ], $command->messages);
        return ['outcomes' => array_map(self::outcomeOf(...), $this->apis[$command->api]->publishMany($messages))];
    }

    /** @return array<string, mixed> */
    private static function outcomeOf(PublishResult|RealizehitException $outcome): array
    {
        return $outcome instanceof PublishResult
            ? array_filter(get_object_vars($outcome), static fn (mixed $value): bool => $value !== null)
            : ['error' => self::errorOf($outcome)];
    }

    /** @return array<string, mixed> */
    private function doHistory(\stdClass $command): array
    {
        $api = $this->apis[$command->api];
        $found = $api->history($command->pattern, $command->last ?? null, $command->since ?? null);
        $messages = array_map(static fn (StoredMessage $message): array => [
            'text' => json_encode($message->payload, JSON_THROW_ON_ERROR),
            'position' => $message->position,
        ] + ($message->pattern === null ? [] : ['pattern' => $message->pattern]), $found->messages);
        return ['messages' => $messages] + get_object_vars($found);
    }

    private static function payloadOf(\stdClass $message): mixed
    {
        return isset($message->text) ? new RawJson($message->text) : $message->payload;
    }

    /** @return array<string, mixed> */
    private function doPattern(\stdClass $command): array
    {
        if (!is_array($command->pattern) && !is_object($command->pattern)) {
            // The types of PHP refuse what is neither an array nor an object.
            throw new RealizehitException('a pattern is a set of filters', 'bad-pattern');
        }
        $pattern = new Pattern($command->pattern);
        return ['text' => $pattern->channel, 'id' => $pattern->id];
    }

    public function doReset(): void
    {
        [$clients, $this->clients, $this->subs, $this->apis] = [$this->clients, [], [], []];
        foreach ($clients as $client) {
            $client->close();
        }
    }
}
