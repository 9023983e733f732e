// The JavaScript side of test_npm.py: reads lines of JSON, answers each with a line of JSON.
//   ids              in: a pattern                 out: {channel, id, subscription}, or {error}
//   publish <url>    in: {pattern, payload}        out: {reached}
//   listen <url>     in: a pattern, once           out: {subscribed}, then {channel, message} for each publication
'use strict'

const readline = require('readline')
const Subscription = require('realizehit-subscription')
const patternToId = require('realizehit-pattern-to-id')
const Publisher = require('realizehit-publisher')
const Redis = require('ioredis')

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

function ids (pattern) {
    try {
        say({
            channel: new Subscription.Pattern(pattern).stringify(),
            id: patternToId(pattern),
            subscription: new Subscription(pattern).id,
        })
    } catch (error) {
        say({ error: String(error) })
    }
}

function publishTo (url) {
    const publisher = new Publisher(url)
    return ({ pattern, payload }) => publisher.publish(pattern, payload).then((reached) => say({ reached }))
}

function listenAt (url) {
    const redis = new Redis(url)
    redis.on('message', (channel, message) => say({ channel, message }))
    return (pattern) => redis.subscribe(new Subscription.Pattern(pattern).stringify())
        .then((subscribed) => say({ subscribed }))
}

const [mode, url] = process.argv.slice(2)
const act = { ids: () => ids, publish: publishTo, listen: listenAt }[mode](url)

readline.createInterface({ input: process.stdin })
    .on('line', (line) => act(JSON.parse(line)))
    .on('close', () => process.exit(0))
