package Net::RealizeHit::Error;

use v5.36;

use Net::RealizeHit::JSON ();

our $VERSION = '0.1.0';

use overload
    q{""}    => sub ( $self, @ ) { $self->as_string },
    bool     => sub { 1 },
    fallback => 1;

# What an error means, by the server's stable code; without one, by the HTTP status.
my %KIND_OF_CODE = (
    'bad-pattern'          => 'BadPattern',
    'wildcard-unsupported' => 'BadPattern',
    'forbidden'            => 'Forbidden',
    'not-authenticated'    => 'NotAuthenticated',
    'rate-limited'         => 'RateLimited',
    'too-large'            => 'TooLarge',
    'unavailable'          => 'Unavailable',
    'too-many-connections' => 'Unavailable',
);
my %KIND_OF_STATUS = (
    401 => 'NotAuthenticated',
    403 => 'Forbidden',
    413 => 'TooLarge',
    429 => 'RateLimited',
    503 => 'Unavailable',
);

for my $kind (
    qw(BadPattern Forbidden NotAuthenticated RateLimited TooLarge Unavailable PublishUnclear Rejected Disconnected
    Timeout Token Closed)
    )
{
    no strict 'refs';    ## no critic (ProhibitNoStrict)
    @{"Net::RealizeHit::Error::${kind}::ISA"} = (__PACKAGE__);
}

sub new ( $class, %fields ) {
    return bless {
        code        => $fields{code} // q{},
        status      => $fields{status},
        text        => $fields{text} // q{},
        retry_after => $fields{retry_after},
    }, $class;
}

# An error of the kind that has this name, such as BadPattern.
sub of ( $class, $kind, %fields ) { return "Net::RealizeHit::Error::$kind"->new(%fields) }

# What a server answered: the kind follows from the code and the status.
sub refusal ( $class, $code, $status, $text, %more ) {
    $code = q{} if !defined $code || ref $code;
    my $kind = $KIND_OF_CODE{$code} // $KIND_OF_STATUS{ $status // 0 } // 'Rejected';
    return $class->of( $kind, code => $code, status => $status, text => $text, %more );
}

# The error that an HTTP answer describes.
sub problem ( $class, $status, $reason, $body, $retry_after ) {
    my $document = Net::RealizeHit::JSON::decode_bytes($body);
    $document = {} if ref $document ne 'HASH';
    my ( $code, $text ) = @{$document}{qw(code detail)};
    $text = "the server answered with $status $reason" if !defined $text || ref $text || $text eq q{};
    $retry_after = undef if defined $retry_after && $retry_after !~ /\A[0-9]{1,9}\z/a;
    my $error = $class->refusal( $code, $status, $text, retry_after => $retry_after );
    bless $error, 'Net::RealizeHit::Error::Unavailable' if $status == 503;
    return $error;
}

sub throw ( $class, $kind, %fields ) { die $class->of( $kind, %fields ) }

sub code        ($self) { return $self->{code} }
sub status      ($self) { return $self->{status} }
sub text        ($self) { return $self->{text} }
sub retry_after ($self) { return $self->{retry_after} }

sub name ($self) { return ( ref $self ) =~ s/.*:://r }

sub as_string ($self) {
    my $code = $self->{code} eq q{} ? q{} : " ($self->{code})";
    return 'realizehit: ' . $self->name . ": $self->{text}$code";
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Error - what the clients die with

=head1 SYNOPSIS

    use v5.36;
    use feature 'try';
    no warnings 'experimental::try';

    try {
        $api->publish( { kind => 'news' }, 'hello' );
    }
    catch ($error) {
        die $error if !ref $error || !$error->isa('Net::RealizeHit::Error');
        say 'not allowed: ', $error->text if $error->isa('Net::RealizeHit::Error::Forbidden');
    }

=head1 DESCRIPTION

Every error is an object of a class named by its meaning, which is a subclass of this one:

=over

=item C<Net::RealizeHit::Error::BadPattern>

The pattern is not valid.

=item C<Net::RealizeHit::Error::Forbidden>

This is not allowed.

=item C<Net::RealizeHit::Error::NotAuthenticated>

The API key or token is missing or is not accepted.

=item C<Net::RealizeHit::Error::RateLimited>

There were too many requests.

=item C<Net::RealizeHit::Error::TooLarge>

The message is too large.

=item C<Net::RealizeHit::Error::Unavailable>

The server or its broker cannot be reached now. Nothing was published. The same request may work later.

=item C<Net::RealizeHit::Error::PublishUnclear>

The answer was lost, so that it is not known whether the message was published.

=item C<Net::RealizeHit::Error::Rejected>

The server refused the request for another reason; C<code> says which.

=item C<Net::RealizeHit::Error::Disconnected>

The connection was lost, or the server closed it for good.

=item C<Net::RealizeHit::Error::Timeout>

The server did not answer in time.

=item C<Net::RealizeHit::Error::Token>

The token function died.

=item C<Net::RealizeHit::Error::Closed>

The client is closed.

=back

=head1 METHODS

=head2 code

The stable code of the server, such as C<forbidden>; the empty string if it gave none.

=head2 status

The HTTP status, or the close code of the WebSocket; C<undef> if there was none.

=head2 text

What was wrong, for people.

=head2 retry_after

After how many seconds the server asks to try again; C<undef> if it does not say.

=head2 name

The last part of the class, such as C<Forbidden>.

=head2 as_string

All of it as one line. An error that is used as a string is this line.

=head2 new

    Net::RealizeHit::Error::Forbidden->new( code => 'forbidden', status => 403, text => 'not yours' );

Makes an error.

=head2 of

    Net::RealizeHit::Error->of( 'Forbidden', text => 'not yours' );

Makes an error of the class that has this name.

=head2 refusal

Makes an error from a code, a status and a text. The class follows from code and status.

=head2 problem

Makes an error from an HTTP answer: status, reason, body, and the header C<Retry-After>.

=head2 throw

As C<of>, and dies with it.

=cut
