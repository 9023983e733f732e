package Net::RealizeHit::Client;

use v5.36;

use List::Util                    qw(min);
use Net::RealizeHit::Backoff      ();
use Net::RealizeHit::Connection   ();
use Net::RealizeHit::Error        ();
use Net::RealizeHit::Handshake    ();
use Net::RealizeHit::JSON         ();
use Net::RealizeHit::Label        ();
use Net::RealizeHit::Message      ();
use Net::RealizeHit::Pattern      ();
use Net::RealizeHit::Subscription ();
use Scalar::Util                  qw(looks_like_number weaken);

our $VERSION = '0.1.0';

use constant {
    STABLE_AFTER => 10,        # seconds; a connection that is lost sooner does not reset the back-off
    BEHIND_AFTER => 10,        # seconds that messages wait to be looked at before full queues drop
    CALL_TIME    => 0.05,      # seconds that callbacks get before the socket is looked at again
    MAX_SECONDS  => 86_400,    # that an event can speak of
};

my %DEFAULTS = (
    open_timeout     => 10,
    response_timeout => 10,
    heartbeat        => 60,
    backoff_base     => 0.25,
    backoff_cap      => 20,
    queue            => 1024,
    max_message      => 16 * 1024 * 1024,
);
my %CALLBACKS = map { $_ => 1 } qw(on_connected on_disconnected on_expiring on_error on_ended);
my %SUBSCRIBE_OPTIONS = map { $_ => 1 }
    qw(since last offsets queue wait on_ready on_message on_state on_gap on_recovered on_error);

sub now () { return Net::RealizeHit::Connection::now() }

sub new ( $class, $url, %options ) {
    my $address = Net::RealizeHit::Handshake::address_of($url)
        or _reject('the address of the WebSocket is not of the form ws://host:port/ws');
    my $self = bless {
        %DEFAULTS,
        address  => $address,
        headers  => {},
        tls      => {},
        number   => 0,
        pending  => {},
        topics   => {},
        by_id    => {},
        timers   => {},
        calls    => [],
        turned   => 0,
        behind_after => BEHIND_AFTER,
    }, $class;
    for my $name ( keys %options ) {
        my $value = $options{$name};
        my $known = exists $DEFAULTS{$name} || $CALLBACKS{$name} || $name =~ /\A(?:token|headers|tls)\z/;
        _reject("there is no option $name") if !$known;
        next                                if !defined $value;
        _reject("the option $name is not a positive number")
            if exists $DEFAULTS{$name} && !( looks_like_number($value) && $value > 0 );
        _reject("the option $name is not a function") if $CALLBACKS{$name} && ref $value ne 'CODE';
        $self->{$name} = $value;
    }
    $self->{delays} = Net::RealizeHit::Backoff->new( @{$self}{qw(backoff_base backoff_cap)} );
    $self->{retry}  = Net::RealizeHit::Backoff->new( @{$self}{qw(backoff_base backoff_cap)} );
    return $self;
}

sub connect ($self) {    ## no critic (ProhibitBuiltinHomonyms)
    $self->start;
    $self->_turn_or_wait while !$self->{was_connected} && !$self->{ended};
    die $self->{error} if $self->{ended} && $self->{error};
    _closed()          if $self->{ended};
    return $self;
}

sub start ($self) {
    _closed() if $self->{closing};
    return $self if $self->{started}++;
    my $error = $self->_dial;
    if ($error) {
        $self->_finish($error);
    }
    return $self;
}

sub is_connected ($self) { return $self->{connection} && $self->{connection}->is_open ? 1 : 0 }
sub ended        ($self) { return $self->{ended} ? 1 : 0 }
sub error        ($self) { return $self->{error} }

sub close ( $self, %options ) {    ## no critic (ProhibitBuiltinHomonyms ProhibitAmbiguousNames)
    return if $self->{ended};
    $self->{closing} = 1;
    if ( !$self->{connection} ) {
        $self->_finish(undef);
    }
    else {
        $self->{connection}->say_goodbye;
        $self->_after_loss if $self->{connection}->lost;
    }
    return if exists $options{wait} && !$options{wait};
    $self->_turn_or_wait while !$self->{ended};
    $self->_call_all;
    return;
}

sub subscribe ( $self, $pattern, %options ) {
    for my $name ( keys %options ) {
        _reject("there is no option $name of a subscription") if !$SUBSCRIBE_OPTIONS{$name};
    }
    my $values = Net::RealizeHit::Pattern::values_of($pattern);
    my $text   = Net::RealizeHit::Pattern::text_of($values);
    my $wait   = delete $options{wait}     // 1;
    my $ready  = delete $options{on_ready} // sub { };
    my %with   = map { $_ => delete $options{$_} } qw(since last offsets);
    $with{offsets} ||= defined $with{since} || $with{last} ? 1 : 0;
    $options{queue} ||= $self->{queue};
    die $self->{error} if $self->{ended} && $self->{error};
    _closed() if $self->{closing} || $self->{ended};
    $wait ? $self->connect : $self->start;
    my $topic = $self->{topics}{$text};
    _reject("this client has a subscription to $text; since and last need the first one")
        if $topic && ( defined $with{since} || $with{last} );
    if ( !$topic ) {
        $topic = $self->{topics}{$text} = {
            text     => $text,
            pattern  => $values,
            wildcard => scalar( grep { $_ eq q{*} } values %{$values} ),
            members  => [],
            offsets  => $with{offsets},
            last     => $with{last},
            position => $with{since},
            epoch    => _epoch_of( $with{since} ),
        };
        $self->_ask($topic);
    }
    my $subscription = Net::RealizeHit::Subscription->new(
        %options,
        client  => $self,
        topic   => $topic,
        pattern => $pattern,
    );
    push @{ $topic->{members} }, $subscription;
    my ( $done, $error );
    $subscription->{ready} = sub ($why) {
        delete $subscription->{ready};
        $self->_cancel( delete $subscription->{ready_timer} );
        ( $done, $error ) = ( 1, $why );
        $self->_later( sub { $ready->( $subscription, $why ) } );
    };
    if ( defined $topic->{id} ) {
        $subscription->_move('subscribed');
        $subscription->{ready}->(undef);
    }
    else {
        $subscription->{ready_timer} = $self->_timer(
            $self->{response_timeout},
            sub {
                my $late = _late('sub');
                $self->_leave($subscription);
                $subscription->{ready}->($late) if $subscription->{ready};
                $subscription->_finish(undef);
            }
        );
    }
    return $subscription if !$wait;
    $self->_turn_or_wait while !$done;
    die $error if $error;
    return $subscription;
}

sub process ($self) {
    $self->_turn(undef);
    return;
}

sub run ( $self, $seconds = undef ) {
    $self->start if !$self->{ended};
    my $deadline = defined $seconds ? now() + $seconds : undef;
    local $self->{stopping} = 0;
    while ( !$self->{ended} && !$self->{stopping} ) {
        last if !$self->_turn_or_wait($deadline);
    }
    $self->_call_all if $self->{ended};
    return;
}

sub stop ($self) { $self->{stopping} = 1; return }

sub fh          ($self) { return $self->{connection} && $self->{connection}->fh }
sub wants_write ($self) { return $self->{connection} && $self->{connection}->wants_write ? 1 : 0 }

sub timeout ($self) {
    return 0 if @{ $self->{calls} };
    my $connection = $self->{connection};
    return 0 if $connection && $connection->has_input;
    my @times = map { $_->{at} } values %{ $self->{timers} };
    push @times, $connection->deadline if $connection;
    return if !@times;
    my $left = min(@times) - now();
    return $left > 0 ? $left : 0;
}

# A turn, and before it a wait for something to do. False if there is nothing to do until the deadline.
sub _turn_or_wait ( $self, $deadline = undef, $reader = undef ) {
    my $wait = $self->timeout;
    if ( defined $deadline ) {
        my $left = $deadline - now();
        if ( $left <= 0 ) {
            $self->_turn($reader);
            return 0;
        }
        $wait = defined $wait ? min( $wait, $left ) : $left;
    }
    if ( !defined $wait || $wait > 0 ) {
        my ( $read, $write ) = ( q{}, q{} );
        if ( my $socket = $self->fh ) {
            vec( $read,  $socket->fileno, 1 ) = 1;
            vec( $write, $socket->fileno, 1 ) = 1 if $self->wants_write;
        }
        elsif ( !defined $wait ) {
            return 0;    # nothing can ever happen
        }
        select $read, $write, undef, $wait;    # a signal ends it early, which does no harm
    }
    $self->_turn($reader);
    return 1;
}

# Does what can be done without waiting. A reader is a subscription that is read now: its messages stay where they are
# until it has taken those that came before.
sub _turn ( $self, $reader ) {
    $self->_run_timers;
    my $connection = $self->{connection};
    if ($connection) {
        my $was_open = $connection->is_open;
        if ( !$reader || !$connection->has_input || now() - $self->{turned} > CALL_TIME ) {
            $connection->turn;
            $self->{turned} = now();
        }
        if ( $connection->is_open && !$was_open ) { $self->_attached }
        $self->_examine( $connection, $reader );
        $self->_after_loss if $self->{connection} && $self->{connection}->lost;
    }
    $self->_call_some;
    return;
}

# Looks at the messages in what was read. Callbacks and the reader take each one before the next; if they are too slow for
# that, the messages go into the queues, and full queues drop.
sub _examine ( $self, $connection, $reader ) {
    my $end    = now() + CALL_TIME;
    my $behind = $connection->is_behind( $self->{behind_after} );
    while ( defined( my $text = $connection->next_text ) ) {
        $self->_take($text);
        next if $behind;
        next   if !@{ $self->{calls} } && !$reader;
        $self->_call_some($end);
        return if $reader && @{ $reader->{waiting} } || @{ $self->{calls} } || now() > $end;
    }
    return;
}

# Calls the program's functions in the order of what happened, until the end of the time for that.
sub _call_some ( $self, $end = now() + CALL_TIME ) {
    while ( my $call = shift @{ $self->{calls} } ) {
        if ( !eval { $call->(); 1 } ) {
            my $error = $@;
            warn "Net::RealizeHit: a callback died: $error\n";
        }
        last if now() > $end;
    }
    return;
}

sub _call_all ($self) {
    $self->_call_some while @{ $self->{calls} };
    return;
}

sub _later ( $self, $call ) { push @{ $self->{calls} }, $call; return }

sub _tell ( $self, $name, @values ) {
    my $call = $self->{$name} // return;
    return $self->_later( sub { $call->( @values, $self ) } );
}

sub _timer ( $self, $seconds, $call ) {
    my $name = ++$self->{number};
    $self->{timers}{$name} = { at => now() + $seconds, call => $call };
    return $name;
}

sub _cancel ( $self, $name ) {
    delete $self->{timers}{$name} if defined $name;
    return;
}

sub _run_timers ($self) {
    my $timers = $self->{timers};
    my $now    = now();
    for my $name ( sort { $timers->{$a}{at} <=> $timers->{$b}{at} } grep { $timers->{$_}{at} <= $now } keys %{$timers} ) {
        my $timer = delete $timers->{$name} // next;
        $timer->{call}->();
    }
    return;
}

# Connecting, and losing a connection.

# Begins to connect; returns an error if there is no token.
sub _dial ($self) {
    my %headers = %{ $self->{headers} };
    if ( defined $self->{token} ) {
        my ( $token, $error ) = $self->_token;
        return $error if $error;
        $headers{Authorization} = "Bearer $token";
    }
    $self->{connection} = Net::RealizeHit::Connection->new(
        address => $self->{address},
        headers => [ map { $_ => $headers{$_} } sort keys %headers ],
        map { $_ => $self->{$_} } qw(tls heartbeat max_message open_timeout),
    );
    return;
}

sub _token ($self) {
    my $token = eval { ref $self->{token} ? $self->{token}->() : $self->{token} };
    my $why   = $@;
    return $token if defined $token && $token =~ /\A[\x21-\x7e]+\z/a;
    $why = 'it has a character that is not visible ASCII, or none' if !$why;
    return ( undef, Net::RealizeHit::Error->of( 'Token', text => "there is no token: $why" ) );
}

sub _attached ($self) {
    $self->{was_connected} = 1;
    $self->{connected_at}  = now();
    $self->_tell('on_connected');
    $self->_ask($_) for values %{ $self->{topics} };
    return;
}

sub _after_loss ($self) {
    my $connection   = delete $self->{connection};
    my $lost         = $connection->lost;
    my $connected_at = delete $self->{connected_at};
    if ($connected_at) {
        $self->{delays}->reset_attempts if now() - $connected_at >= STABLE_AFTER;
        $self->_detached( $connection->heard, $lost );
    }
    my $status = $lost->status // 0;
    my $final
        = $connected_at
        ? $status >= 4500 && $status < 5000 && ( $status != 4501 || ref $self->{token} ne 'CODE' )
        : !$self->{was_connected} || $status == 401 || $status == 403;
    if ( $self->{closing} ) { $self->_finish(undef) }
    elsif ($final)          { $self->_finish($lost) }
    else {
        $self->_tell( on_error => $lost ) if !$connected_at;
        my $delay = $connected_at ? $lost->retry_after : undef;
        $self->_return_after( $delay // $self->{delays}->next_delay );
    }
    return;
}

sub _return_after ( $self, $delay ) {
    $self->_timer(
        $delay,
        sub {
            return if $self->{ended};
            my $error = $self->_dial // return;
            $self->_tell( on_error => $error );
            $self->_return_after( $self->{delays}->next_delay );
        }
    );
    return;
}

sub _detached ( $self, $since, $lost ) {
    $self->{by_id} = {};
    my $pending = $self->{pending};
    $self->{pending} = {};
    $self->_cancel( delete $self->{renewal} );
    $_->(undef) for map { $pending->{$_} } sort { $a <=> $b } keys %{$pending};
    for my $topic ( values %{ $self->{topics} } ) {
        delete $topic->{id};
        next if $self->{closing};
        $_->_interrupted($since) for @{ $topic->{members} };
    }
    $self->_tell( on_disconnected => $lost );
    return;
}

# Ends the client: closed by the program if there is no error.
sub _finish ( $self, $error ) {
    $self->{ended}   = 1;
    $self->{closing} = 1;
    $self->{error}   = $error;
    $self->_end_topic( $_, $error ) for values %{ $self->{topics} };
    $self->{timers} = {};
    if ($error) {
        $self->_tell( on_error => $error ) if $self->{was_connected};
        $self->_tell( on_ended => $error );
    }
    return;
}

# Actions and their answers.

# Sends an action; answered is called with the reply, or with undef if the connection is lost.
sub _act ( $self, $action, $answered = undef ) {
    my $id = ++$self->{number};
    $self->{pending}{$id} = $answered if $answered;
    $self->{connection}->send_text( Net::RealizeHit::JSON::encode( { %{$action}, id => "$id" } ) );
    return $id;
}

# Sends the sub of a topic if there is a connection; otherwise the next one begins with it.
sub _ask ( $self, $topic ) {
    return if !$self->is_connected || !$self->_has($topic);
    my %action = ( act => 'sub', pat => $topic->{pattern} );
    if    ( defined $topic->{position} ) { $action{since}   = $topic->{position} }
    elsif ( $topic->{last} )             { $action{last}    = 0 + $topic->{last} }
    elsif ( $topic->{offsets} )          { $action{offsets} = Cpanel::JSON::XS::true() }
    $topic->{request} = $self->_act( \%action, sub ($reply) { $self->_subscribed( $topic, $reply ) } );
    return;
}

sub _has ( $self, $topic ) {
    my $known = $self->{topics}{ $topic->{text} };
    return $known && $known == $topic;
}

sub _subscribed ( $self, $topic, $reply ) {
    return if !$reply || !$self->_has($topic);    # the next connection asks again, or nobody wants it any more
    if ( defined $reply->{err} ) {
        my $refusal = _refusal($reply);
        if ( $topic->{was_ready} && $refusal->code =~ /\A(?:unavailable|rate-limited)\z/ ) {
            my $connection = $self->{connection};
            $self->_timer(
                $self->{retry}->next_delay,
                sub { $self->_ask($topic) if $self->{connection} && $self->{connection} == $connection }
            );
            return;
        }
        return $self->_end_topic( $topic, $refusal );
    }
    my $id = $reply->{ret};
    $id = Net::RealizeHit::Pattern::id_of( $topic->{text} ) if !defined $id || ref $id || $id eq q{};
    my $other = $self->{by_id}{$id};
    if ( $other && $other != $topic ) {
        return $self->_end_topic(
            $topic,
            Net::RealizeHit::Error->refusal(
                'id-collision', undef,
                "the pattern $topic->{text} has the id of $other->{text}; use another client for it"
            )
        );
    }
    $self->{retry}->reset_attempts;
    my $recovered = $reply->{recovered};
    my $missed    = defined $recovered && !$recovered;
    if ( defined $reply->{at} && !ref $reply->{at} && $topic->{offsets} ) {
        $topic->{epoch}    = _epoch_of( $reply->{at} );
        $topic->{position} = $reply->{at} if !$recovered;
    }
    @{$topic}{qw(id was_ready)} = ( $id, 1 );
    $self->{by_id}{$id} = $topic;
    for my $member ( @{ $topic->{members} } ) {
        $member->_gap(0) if $missed && !defined $member->{away};    # the program's own `since` cannot be served
        $member->_in_force( $recovered ? 1 : 0 );
        $member->{ready}->(undef) if $member->{ready};
    }
    return;
}

sub _end_topic ( $self, $topic, $error ) {
    $self->_forget($topic);
    my @members = splice @{ $topic->{members} };
    for my $member (@members) {
        if ( my $ready = $member->{ready} ) {
            $ready->( $error // Net::RealizeHit::Error->of( 'Closed', text => 'the client is closed' ) );
            $member->_finish(undef);
            next;
        }
        $member->_finish($error);
    }
    return;
}

sub _forget ( $self, $topic ) {
    delete $self->{topics}{ $topic->{text} } if $self->_has($topic);
    delete $self->{pending}{ $topic->{request} } if defined $topic->{request};
    return if !defined $topic->{id};
    my $known = $self->{by_id}{ $topic->{id} };
    delete $self->{by_id}{ $topic->{id} } if $known && $known == $topic;
    return;
}

# Takes a subscription away, and says whether answered will be called.
sub _leave ( $self, $subscription, $answered = undef ) {
    my $topic = $subscription->{topic};
    @{ $topic->{members} } = grep { $_ != $subscription } @{ $topic->{members} };
    return 0 if @{ $topic->{members} } || !$self->_has($topic);
    $self->_forget($topic);
    return 0 if !$self->is_connected;
    $self->_act( { act => 'unsub', pat => $topic->{pattern} }, $answered );
    return 1;
}

sub _unsubscribe ( $self, $subscription, %options ) {
    return if $subscription->{ended};
    $subscription->_move('unsubscribing');
    $subscription->_end(undef);
    my ( $done, $error, $timer );
    my $finish = sub ($why) {
        return if $done++;
        $self->_cancel($timer);
        $error = $why;
        $subscription->_finish(undef);
        my $on_done = $options{on_done} // return;
        $self->_later( sub { $on_done->($why) } );
    };
    if ( $self->_leave( $subscription, sub { $finish->(undef) } ) ) {
        $timer = $self->_timer( $self->{response_timeout}, sub { $finish->( _late('unsub') ) } );
    }
    else { $finish->(undef) }
    return if exists $options{wait} && !$options{wait};
    $self->_turn_or_wait while !$done && !$self->{ended};
    $self->_call_some;
    die $error if $error;
    return;
}

# What comes from the server.

sub _take ( $self, $text ) {
    if ( $text =~ /\A\{/ ) {
        my $object = eval { Net::RealizeHit::JSON::decode($text) };
        $self->_take_object($object) if ref $object eq 'HASH';
        return;
    }
    my ( $head, $payload ) = split /[?]/, $text, 2;
    return if !defined $payload;
    my ( $id, $label ) = split /@/, $head, 2;
    my $topic = $self->{by_id}{ $id // q{} } // return;
    my ( $channel, $offset, $malformed );
    ( $channel, $offset, $malformed ) = Net::RealizeHit::Label::fields_of($label) if defined $label;
    $malformed //= 'the field c is missing' if $topic->{wildcard} && !defined $channel;
    if ( defined $malformed ) {
        return if $topic->{told}++;
        my $error = Net::RealizeHit::Error->of( 'Rejected',
            text => "a message of $topic->{text} has a malformed label and was left out, as later ones will be: $malformed" );
        $_->_tell( on_error => $error ) for @{ $topic->{members} };
        return;
    }
    if ( defined $offset && $topic->{offsets} ) {
        $offset = "$topic->{epoch}.$offset" if $offset !~ /[.]/ && defined $topic->{epoch};
        $topic->{position} = $offset;
    }
    else { undef $offset }
    my $message = Net::RealizeHit::Message->new(
        text     => $payload,
        channel  => $channel // $topic->{text},
        position => $offset,
    );
    $_->_put($message) for @{ $topic->{members} };
    return;
}

sub _take_object ( $self, $object ) {
    my $id = $object->{id};
    if ( defined $id && !ref $id ) {
        my $answered = delete $self->{pending}{$id};
        $answered->($object) if $answered;
        return;
    }
    my $event = $object->{evt};
    return if !defined $event || ref $event;
    my $seconds = $object->{seconds};
    $seconds = 0 if !defined $seconds || ref $seconds || !looks_like_number($seconds) || !( $seconds >= 0 );
    $seconds = min( $seconds, MAX_SECONDS );
    my @ids    = ref $object->{ids} eq 'ARRAY' ? grep { defined && !ref } @{ $object->{ids} } : ();
    my @topics = grep {defined} @{ $self->{by_id} }{@ids};
    if    ( $event eq 'expiring' )     { $self->_expiring($seconds) }
    elsif ( $event eq 'gap' )          { $self->_told_gap( $_, $seconds, $object->{at} ) for @topics }
    elsif ( $event eq 'unsubscribed' ) {
        my $reason = $object->{reason};
        $reason = q{} if !defined $reason || ref $reason;
        my $error = Net::RealizeHit::Error->refusal( $object->{code}, undef, "the server ended the subscription: $reason" );
        $self->_end_topic( $_, $error ) for @topics;
    }
    return;
}

sub _told_gap ( $self, $topic, $seconds, $positions ) {
    my $at = ref $positions eq 'HASH' ? $positions->{ $topic->{id} } : undef;
    if ( defined $at && !ref $at && $topic->{offsets} ) {
        @{$topic}{qw(position epoch)} = ( $at, _epoch_of($at) );
    }
    $_->_gap($seconds) for @{ $topic->{members} };
    return;
}

# Tells that the token ends, and renews it if there is a function for that.
sub _expiring ( $self, $seconds ) {
    $self->_tell( on_expiring => $seconds );
    return if ref $self->{token} ne 'CODE' || defined $self->{renewal};

    # Clients whose tokens end together do not ask together.
    my $delays = Net::RealizeHit::Backoff->new( @{$self}{qw(backoff_base backoff_cap)} );
    $self->_renew_after( $seconds * ( 0.25 + rand 0.25 ), $delays );
    return;
}

sub _renew_after ( $self, $delay, $delays ) {
    my $again = sub ($error) {
        $self->_tell( on_error => $error );
        $self->_renew_after( $delays->next_delay, $delays );
    };
    $self->{renewal} = $self->_timer(
        $delay,
        sub {
            my ( $token, $error ) = $self->_token;
            return $again->($error) if $error;
            my $id;
            $self->{renewal} = $self->_timer(
                $self->{response_timeout},
                sub {
                    delete $self->{pending}{$id};
                    $again->( _late('auth') );
                }
            );
            $id = $self->_act(
                { act => 'auth', token => $token },
                sub ($reply) {
                    $self->_cancel( delete $self->{renewal} );
                    $again->( _refusal($reply) ) if $reply && defined $reply->{err};
                }
            );
        }
    );
    return;
}

sub _refusal ($reply) {
    my $text = ref $reply->{err} ? 'the server refused the action' : $reply->{err};
    return Net::RealizeHit::Error->refusal( $reply->{code}, undef, $text );
}

sub _epoch_of ($position) { return defined $position ? $position =~ s/[.].*//sr : undef }

sub _late ($action) { return Net::RealizeHit::Error->of( 'Timeout', text => "there was no answer to $action in time" ) }

sub _closed () { return Net::RealizeHit::Error->throw( 'Closed', text => 'the client is closed' ) }

sub _reject ($text) { return Net::RealizeHit::Error->throw( 'Rejected', code => 'bad-request', text => $text ) }

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Client - subscribes over a WebSocket, and stays subscribed

=head1 SYNOPSIS

    use v5.36;
    use Net::RealizeHit::Client;

    my $client = Net::RealizeHit::Client->new('ws://127.0.0.1:8080/ws');

    my $news = $client->subscribe( { kind => 'news' } );
    while ( my $message = $news->next ) {
        say $message->text;
    }

    # or with functions
    $client->subscribe( { kind => 'sport' }, on_message => sub ( $message, $subscription ) { say $message->text } );
    $client->run;

=head1 DESCRIPTION

The client works inside its methods: while the program is in C<next>, C<run>, C<subscribe> or C<process>, it reads, calls
the program's functions, and connects again. It has no threads. If the program does something else for long, messages wait
in the socket, and the server may close the connection with 4002 or 4003; the client then comes back at the next call.

=head2 Lost connections

The first attempt to connect is not repeated, so that a wrong address shows. From then on the client connects again by
itself, after a random time up to a bound that doubles from 0.25 s to 20 s, or after the delay that a server which goes away
asks for. All subscriptions are asked for again at once. Each tells a gap, unless the server says that nothing was missed.

It ends if the server closes the connection with a code from 4500 to 4999, except 4501 where the token is a function, and
if the handshake is refused with 401 or 403.

=head1 METHODS

=head2 new

    my $client = Net::RealizeHit::Client->new( $url, %options );

Makes a client and does not connect yet. The address is C<ws://host:port/ws>, or C<wss://> for TLS. Options; times are in
seconds and may be fractions:

=over

=item C<token>

Who the client is, a JSON Web Token: a text, or a function that returns one. The function is called for each connection and
before a token ends. The token is sent in the header C<Authorization>.

=item C<open_timeout> (10)

For connecting and the handshake.

=item C<response_timeout> (10)

For the answer to a subscription.

=item C<heartbeat> (60)

A connection on which nothing came for so long is given up. A ping is sent after half of it.

=item C<backoff_base> (0.25), C<backoff_cap> (20)

The first and the last bound of the time before connecting again.

=item C<queue> (1024)

How many messages may wait in each subscription. When a queue is full, the oldest are dropped and counted, and a gap is told.
Before that, up to 1 MiB that was read waits for up to 10 s, so that a reader or function that keeps up loses nothing.

=item C<max_message> (16 MiB)

The largest message in bytes that is accepted.

=item C<headers>

A reference to a hash of further headers of the handshake.

=item C<tls>

A reference to a hash of options of L<IO::Socket::SSL>, such as C<< { SSL_ca_file => 'ca.pem' } >>. Certificates are
verified.

=item C<on_connected> C<< ->($client) >>

The connection is there, the first time and each time it is there again.

=item C<on_disconnected> C<< ->($error, $client) >>

The connection is lost; C<< $error->status >> is the close code if there was one.

=item C<on_expiring> C<< ->($seconds, $client) >>

The token ends in so many seconds.

=item C<on_error> C<< ->($error, $client) >>

Connecting again or renewing the token failed. It is tried again.

=item C<on_ended> C<< ->($error, $client) >>

The client has given up. Not after C<close>.

=back

A function that dies is warned of, and ends nothing.

=head2 connect

Connects and waits until that is done. Dies with a L<Net::RealizeHit::Error> if it cannot. C<subscribe> does it if the
program has not. Returns the client.

=head2 start

Begins to connect and does not wait.

=head2 subscribe

    my $subscription = $client->subscribe( $pattern, %options );

Subscribes and waits until the server has confirmed it: nothing that is published from then on is missed. Returns a
L<Net::RealizeHit::Subscription>. Dies with an error, after C<response_timeout> with C<Timeout>. Options:

=over

=item C<since>

A position: what came after it is sent first, or a gap is told.

=item C<last>

How many of the last messages are sent first.

=item C<offsets>

Asks for positions, by which the subscription resumes after a lost connection. C<since> and C<last> imply it. A server
without history ignores the three.

=item C<queue>

As that of the client, for this subscription.

=item C<on_message> C<< ->($message, $subscription) >>

Takes the messages. Without it, C<next> reads them.

=item C<on_state> C<< ->($state, $subscription) >>

The state changed.

=item C<on_gap> C<< ->($gap, $subscription) >>

Messages may be missing: C<< $gap->{seconds} >> is how long the connection or the broker was lost; or C<< $gap->{dropped} >>
how many messages the full queue dropped.

=item C<on_recovered> C<< ->($subscription) >>

The subscription is in force again, and nothing was missed.

=item C<on_error> C<< ->($error, $subscription) >>

The server ended the subscription, or sent something that cannot be understood.

=item C<wait> (1), C<on_ready> C<< ->($subscription, $error) >>

With C<< wait => 0 >> the method returns at once, and C<on_ready> tells the outcome: C<$error> is C<undef> where the
subscription is in force.

=back

=head2 run

    $client->run;
    $client->run($seconds);

Works until the client has ended, C<stop> is called, or that time is over.

=head2 stop

Ends C<run>. For functions of the program.

=head2 close

Ends all subscriptions and the connection, and waits for the server's goodbye, two seconds at most. With C<< wait => 0 >>
it does not wait.

=head2 is_connected

Whether a connection is there.

=head2 ended

Whether the client has ended.

=head2 error

The error for which it has ended; C<undef> while it has not, and after C<close>.

=head2 process

Does what can be done without waiting. With C<fh>, C<wants_write> and C<timeout> a client becomes part of another event loop:
call C<process> when C<fh> can be read, when it can be written and C<wants_write> is true, and after C<timeout> seconds.
All three change with each call. F<eg/mojo.pl> does it with L<Mojo::IOLoop>.

=head2 fh

The socket; C<undef> while there is none.

=head2 wants_write

Whether C<process> should be called when the socket can be written.

=head2 timeout

After how many seconds C<process> should be called at the latest; C<undef> if it need not be.

=head2 now

The monotonic clock in seconds.

=cut
