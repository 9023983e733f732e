<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

// Imported, because each message needs them, and PHP looks up a function of the namespace first otherwise.
use function ord;
use function strlen;
use function substr;

/**
 * The receiving side of a WebSocket client (RFC 6455, section 5): bytes in, messages and control frames out.
 *
 * Text is checked as it comes, also in the middle of a fragment. After an error nothing more is read.
 *
 * @internal
 */
final class FrameParser
{
    /** The close code of the error that was found; null as long as there is none. */
    public ?int $failureCode = null;
    public string $failure = '';
    /** Whether the last `feed` may have returned frames besides texts. */
    public bool $hasFrames = false;

    private string $buffer = '';
    /** Opcode of the message that is being received; null between messages. */
    private ?int $opcode = null;
    private string $message = '';
    /** Bytes of the current data frame that have not come. */
    private int $remaining = 0;
    private bool $isFinal = false;
    private bool $inFrame = false;
    private readonly Utf8Validator $utf8;

    /**
     * @param int $maxMessage bytes of the largest message that is accepted.
     */
    public function __construct(private readonly int $maxMessage)
    {
        $this->utf8 = new Utf8Validator();
    }

    /**
     * Take bytes and return what is complete: a text message as a string, anything else as a frame.
     *
     * @return list<string|Frame>
     */
    public function feed(string $bytes): array
    {
        if ($this->failureCode !== null) {
            return [];
        }
        $buffer = $this->buffer === '' ? $bytes : $this->buffer . $bytes;
        $size = strlen($buffer);
        $max = $this->maxMessage;
        $this->hasFrames = false;
        $at = 0;
        $found = [];
        while (true) {
            if ($this->inFrame) {
                $piece = substr($buffer, $at, $this->remaining);
                $at += strlen($piece);
                $this->remaining -= strlen($piece);
                if (!$this->take($piece) || $this->remaining > 0) {
                    break;
                }
                $this->inFrame = false;
                if ($this->isFinal) {
                    if (!$this->utf8->finish()) {
                        $this->fail(1007, 'a text message ends in the middle of a character');
                        break;
                    }
                    $found[] = $this->opcode === Frame::TEXT ? $this->message : new Frame(Frame::BINARY, $this->message);
                    $this->hasFrames = true;
                    $this->opcode = null;
                    $this->message = '';
                }
                continue;
            }
            if ($size - $at < 2) {
                break;
            }
            if ($this->opcode === null) {
                // The usual case, whole texts of up to 64 KiB, without the steps of the general one.
                $texts = [];
                while ($at + 4 <= $size && $buffer[$at] === "\x81") {
                    $length = ord($buffer[$at + 1]);
                    $begin = $at + 2;
                    if ($length === 126) {
                        $length = ord($buffer[$begin]) << 8 | ord($buffer[$begin + 1]);
                        $begin += 2;
                        if ($length < 126) {
                            break;
                        }
                    } elseif ($length > 126) {
                        break;
                    }
                    if ($begin + $length > $size || $length > $max) {
                        break;
                    }
                    $texts[] = substr($buffer, $begin, $length);
                    $at = $begin + $length;
                }
                $valid = self::validOf($texts);
                $found = $found === [] ? $valid : array_merge($found, $valid);
                if (count($valid) < count($texts)) {
                    $this->fail(1007, 'a text message is not UTF-8');
                    break;
                }
                if ($size - $at < 2) {
                    break;
                }
            }
            $first = ord($buffer[$at]);
            $length = ord($buffer[$at + 1]);
            $opcode = $first & 0x0F;
            if (!$this->isAllowed($first, $length)) {
                break;
            }
            $head = match ($length) {
                126 => 4,
                127 => 10,
                default => 2,
            };
            if ($size - $at < $head) {
                break;
            }
            if ($length === 126) {
                $length = unpack('n', $buffer, $at + 2)[1];
            } elseif ($length === 127) {
                $length = unpack('J', $buffer, $at + 2)[1];
            }
            if ($length < 0 || ($head === 4 && $length < 126) || ($head === 10 && $length < 65536)) {
                $this->fail(1002, 'a frame has a malformed length');
                break;
            }
            if ($opcode >= Frame::CLOSE) {
                if ($size - $at < $head + $length) {
                    break;
                }
                $found[] = new Frame($opcode, substr($buffer, $at + $head, $length));
                $this->hasFrames = true;
                $at += $head + $length;
                continue;
            }
            if (strlen($this->message) + $length > $this->maxMessage) {
                $this->fail(1009, "a message has more than $this->maxMessage bytes");
                break;
            }
            $at += $head;
            $this->opcode ??= $opcode;
            $this->isFinal = ($first & 0x80) !== 0;
            $this->remaining = $length;
            $this->inFrame = true;
        }
        $this->buffer = $at < $size && $this->failureCode === null ? substr($buffer, $at) : '';
        return $found;
    }

    /**
     * Return the texts before the first one that is not UTF-8. One check for all is the usual case.
     *
     * @param list<string> $texts
     * @return list<string>
     */
    private static function validOf(array $texts): array
    {
        $joined = implode("\n", $texts); // no character reaches over the line feed between two texts
        // Texts without other characters than ASCII are found in half of the time that the check of UTF-8 takes.
        if (preg_match('/^[\x00-\x7F]*+$/D', $joined) === 1 || preg_match('//u', $joined) === 1) {
            return $texts;
        }
        $valid = [];
        foreach ($texts as $text) {
            if (preg_match('//u', $text) !== 1) {
                break;
            }
            $valid[] = $text;
        }
        return $valid;
    }

    /** Check the first two bytes of a frame. */
    private function isAllowed(int $first, int $second): bool
    {
        $opcode = $first & 0x0F;
        $problem = match (true) {
            ($first & 0x70) !== 0 => 'a frame has reserved bits',
            ($second & 0x80) !== 0 => 'a frame of the server is masked',
            $opcode > Frame::BINARY && $opcode < Frame::CLOSE, $opcode > Frame::PONG => "a frame has the unknown opcode $opcode",
            $opcode >= Frame::CLOSE && ($first & 0x80) === 0 => 'a control frame is fragmented',
            $opcode >= Frame::CLOSE && $second > 125 => 'a control frame has more than 125 bytes',
            $opcode === Frame::CONTINUATION && $this->opcode === null => 'a fragment continues no message',
            ($opcode === Frame::TEXT || $opcode === Frame::BINARY) && $this->opcode !== null
                => 'a message begins in the middle of another one',
            default => null,
        };
        if ($problem !== null) {
            $this->fail(1002, $problem);
        }
        return $problem === null;
    }

    private function take(string $piece): bool
    {
        if ($this->opcode === Frame::TEXT && !$this->utf8->accepts($piece)) {
            $this->fail(1007, 'a text message is not UTF-8');
            return false;
        }
        $this->message .= $piece;
        return true;
    }

    private function fail(int $code, string $reason): void
    {
        $this->failureCode = $code;
        $this->failure = $reason;
        $this->message = '';
    }
}
