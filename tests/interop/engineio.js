// The JavaScript side of test_engineio.py: one client of one version, which says on standard output what it sees.
//   node engineio.js <package> <port> <transport>[,<transport>] <pattern>
// It subscribes, again after each reconnect, and counts payloads {"n": …, "text": …}; a line of input is a command:
//   count <n>   answers once so many have come: {count, wrong, transport}
//   unsub       answers {unsub: <id>}
'use strict'

const [name, port, transports, pattern] = process.argv.slice(2)
const { Socket } = require(name)
const TEXT = 'é?😀\u2028'

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

let socket
let count = 0
let wrong = []
let next = null
let wanted = null

const act = (id, act) => socket.send(JSON.stringify({ id, act, pat: JSON.parse(pattern) }))

function tell () {
    if (wanted !== null && count >= wanted) {
        wanted = null
        say({ count, wrong: wrong.slice(0, 5), transport: socket.transport.name })
    }
}

function payload (message) {
    // As the JavaScript realizehit client does: what stands behind a second "?" would be lost.
    const [id, json] = message.split('?', 2)
    let value
    try {
        value = JSON.parse(json)
    } catch (error) {
        wrong.push(String(error))
        value = { n: -1 }
    }
    if (!/^[0-9a-f]{8}$/.test(id) || value.text !== TEXT || (next !== null && value.n !== next)) wrong.push(message)
    next = value.n + 1
    count++
    tell()
}

function connect () {
    const opened = new Socket('ws://127.0.0.1:' + port, { path: '/ws', transports: transports.split(',') })
    socket = opened
    opened.on('open', () => act('s', 'sub'))
    opened.on('message', (message) => {
        if (message[0] !== '{') return payload(message)
        const answer = JSON.parse(message)
        if (answer.id === 's') say({ sub: answer.ret, transport: opened.transport.name })
        else say({ unsub: answer.ret })
    })
    opened.on('upgrade', (transport) => say({ upgraded: transport.name, after: count }))
    opened.on('error', () => {})
    opened.on('close', () => {
        next = null
        setTimeout(connect, 50)
    })
}

require('readline').createInterface({ input: process.stdin })
    .on('line', (line) => {
        const [command, argument] = line.split(' ')
        if (command === 'unsub') return act('u', 'unsub')
        wanted = Number(argument)
        tell()
    })
    .on('close', () => process.exit(0))

connect()
