<?php

declare(strict_types=1);

namespace Realizehit\Internal;

use Realizehit\Exception\BadRequestException;
use Realizehit\Exception\RealizehitException;
use Realizehit\Gap;
use Realizehit\Pattern;
use Realizehit\Subscription;
use Realizehit\SubscriptionState;
use Realizehit\WebSocket\Connection;

/**
 * What a client is subscribed to: one topic for each pattern, in force or not.
 *
 * @internal
 */
final class Topics
{
    private const TEMPORARY = ['unavailable', 'rate-limited'];

    /** @var array<string, Topic> by channel */
    private array $wanted = [];

    public function __construct(
        private readonly Link $link,
        private readonly Incoming $incoming,
        private readonly Replies $replies,
        private readonly Backoff $backoff,
        /** Called with each gap, after the subscription has told it. */
        private readonly \Closure $onGap,
    ) {
    }

    /**
     * Return the topic of a pattern; a new one is asked for when its first member joins.
     *
     * @throws BadRequestException the pattern is subscribed to already, and cannot begin at another position or have
     *     another time.
     */
    public function topic(Pattern $pattern, ?string $since, ?int $last, bool $offsets, ?int $every): Topic
    {
        $topic = $this->wanted[$pattern->channel] ?? null;
        if ($topic === null) {
            return new Topic($pattern, $since, $last, $offsets, $every);
        }
        if ($since !== null || $last !== null || ($offsets && !$topic->hasPositions)) {
            $text = 'the pattern is subscribed to already: only its first subscription can give since, last or offsets';
            throw new BadRequestException($text, 'bad-request');
        }
        if ($every !== $topic->every) {
            throw new BadRequestException('the pattern is subscribed to already, with another every', 'bad-request');
        }
        return $topic;
    }

    public function join(Subscription $subscription): void
    {
        $topic = $subscription->topic();
        $topic->members[spl_object_id($subscription)] = $subscription;
        $this->wanted[$topic->channel] = $topic;
        $subscription->emit('subscribing');
        if ($topic->isInForce) {
            $subscription->move(SubscriptionState::Subscribed);
        } elseif (!$topic->isAsked && $this->link->isOpen()) {
            $this->ask($topic);
        }
    }

    /**
     * Take a subscription out.
     *
     * @param \Closure(): void $confirmed called when the server has confirmed it, or needs not.
     */
    public function leave(Subscription $subscription, \Closure $confirmed): void
    {
        $topic = $subscription->topic();
        unset($topic->members[spl_object_id($subscription)], $this->incoming->full[spl_object_id($subscription)]);
        if ($topic->members !== [] || ($this->wanted[$topic->channel] ?? null) !== $topic) {
            $confirmed();
            return;
        }
        $this->forget($topic);
        if (!$topic->isAsked || !$this->link->isOpen()) {
            $confirmed();
            return;
        }
        $id = $this->replies->expect(static fn () => $confirmed());
        $this->link->send(['id' => $id, 'act' => 'unsub', 'pat' => $topic->pattern]);
    }

    /** Ask for everything: a connection is open. */
    public function askAll(): void
    {
        foreach ($this->wanted as $topic) {
            $this->ask($topic);
        }
    }

    /** Note that nothing is in force any more. */
    public function interrupt(float $since): void
    {
        $this->incoming->topics = [];
        foreach ($this->wanted as $topic) {
            $wasInForce = $topic->isInForce;
            $topic->isAsked = false;
            $topic->isInForce = false;
            $topic->askAt = null;
            if ($wasInForce) {
                $topic->awaySince ??= $since;
                foreach ($topic->members as $member) {
                    $member->move(SubscriptionState::Subscribing);
                }
            }
        }
    }

    /** End everything. */
    public function end(?RealizehitException $error): void
    {
        $topics = $this->wanted;
        $this->wanted = [];
        $this->incoming->topics = [];
        $this->incoming->full = [];
        foreach ($topics as $topic) {
            foreach ($topic->members as $member) {
                $member->finish($error);
            }
        }
    }

    /** When `turn` has something to do; null if never. */
    public function deadline(): ?float
    {
        $times = array_filter(array_map(static fn (Topic $topic): ?float => $topic->askAt, $this->wanted));
        return $times === [] ? null : min($times);
    }

    /** Ask again where it is time, and tell what full queues dropped. */
    public function turn(): void
    {
        $now = Connection::now();
        foreach ($this->wanted as $topic) {
            if ($topic->askAt !== null && $now >= $topic->askAt) {
                $this->ask($topic);
            }
        }
        $full = $this->incoming->full;
        $this->incoming->full = [];
        foreach ($full as $subscription) {
            $gap = $subscription->tellDropped();
            if ($gap !== null) {
                ($this->onGap)($subscription, $gap);
            }
        }
    }

    /**
     * Take a gap or the end of subscriptions.
     *
     * @param array<string, mixed> $event
     */
    public function take(string $name, array $event): void
    {
        $ids = is_array($event['ids'] ?? null) ? $event['ids'] : [];
        foreach ($ids as $id) {
            $topic = is_string($id) ? ($this->incoming->topics[$id] ?? null) : null;
            if ($topic === null) {
                continue;
            }
            if ($name === 'unsubscribed') {
                $code = is_string($event['code'] ?? null) ? $event['code'] : '';
                $reason = is_string($event['reason'] ?? null) ? $event['reason'] : 'the server ended the subscription';
                $this->fail($topic, RealizehitException::fromServer($reason, $code));
            } else {
                $position = is_array($event['at'] ?? null) ? ($event['at'][$id] ?? null) : null;
                $topic->position = is_string($position) ? $position : $topic->position;
                $seconds = $event['seconds'] ?? 0;
                $this->tellGap($topic, is_int($seconds) || is_float($seconds) ? (float) $seconds : 0.0);
            }
        }
    }

    private function ask(Topic $topic): void
    {
        $topic->isAsked = true;
        $topic->askAt = null;
        $action = $topic->action();
        $resumes = isset($action['since']);
        $id = $this->replies->expect(function (?array $reply) use ($topic, $resumes): void {
            if ($reply !== null && ($this->wanted[$topic->channel] ?? null) === $topic) {
                $this->answered($topic, $reply, $resumes);
            }
        });
        $this->link->send(['id' => $id] + $action);
    }

    /**
     * @param array<string, mixed> $reply
     * @param bool $resumes whether the messages after a position were asked for.
     */
    private function answered(Topic $topic, array $reply, bool $resumes): void
    {
        if (isset($reply['err'])) {
            $code = is_string($reply['code'] ?? null) ? $reply['code'] : '';
            if ($topic->wasInForce && in_array($code, self::TEMPORARY, true)) {
                $topic->isAsked = false;
                $topic->askAt = Connection::now() + $this->backoff->delay($topic->attempts++);
                return;
            }
            $text = is_string($reply['err']) ? $reply['err'] : 'the server refuses the subscription';
            $this->fail($topic, RealizehitException::fromServer($text, $code));
            return;
        }
        $topic->id = is_string($reply['ret'] ?? null) ? $reply['ret'] : $topic->pattern->id;
        $topic->isInForce = true;
        $topic->wasInForce = true;
        $topic->attempts = 0;
        $this->incoming->topics[$topic->id] = $topic;
        if ($topic->hasPositions && is_string($reply['at'] ?? null)) {
            $topic->position = $reply['at'];
        }
        $away = $topic->awaySince;
        $topic->awaySince = null;
        foreach ($topic->members as $member) {
            $member->move(SubscriptionState::Subscribed);
        }
        if ($resumes && ($reply['recovered'] ?? null) === true) {
            foreach ($topic->members as $member) {
                $member->emit('recovered');
            }
        } elseif ($away !== null || $resumes) { // a server without history does not resume
            $this->tellGap($topic, $away === null ? 0.0 : Connection::now() - $away);
        }
    }

    private function tellGap(Topic $topic, float $seconds): void
    {
        $gap = new Gap($seconds);
        foreach ($topic->members as $member) {
            $member->emit('gap', $gap);
            ($this->onGap)($member, $gap);
        }
    }

    private function fail(Topic $topic, RealizehitException $error): void
    {
        $this->forget($topic);
        foreach ($topic->members as $member) {
            $member->finish($error);
        }
    }

    private function forget(Topic $topic): void
    {
        unset($this->wanted[$topic->channel]);
        if (($this->incoming->topics[$topic->id] ?? null) === $topic) {
            unset($this->incoming->topics[$topic->id]);
        }
    }
}
